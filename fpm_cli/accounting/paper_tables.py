"""An audit of the paper's Tables 1 to 3 and its statements on Table 4: each discrepancy, explained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.schema import RunConfig

MILLIONS_PER_BERT_LAYER = 330 / 24  # 13.75: BERT-Large's 330M over its 24 layers
BILLIONS_AT_36_LAYERS = 2.9
QQP_DEV_DUPLICATES, QQP_DEV_PAIRS = 14_885, 40_430  # GLUE's QQP dev set: 36.8 % are duplicates
TURING_TEST_F1 = 76.4
BERT_LARGE_TEST_F1 = 72.1
UNITS = {"M": 1e6, "B": 1e9}
# Table 3: QQP dev set, percent: precision, recall, F1, accuracy.
TABLE3 = {
    "BERT-E-S": (89.84, 90.42, 90.11, 90.73),
    "BERT-E-M": (89.84, 90.43, 90.12, 90.73),
    "BERT-E-L": (90.55, 91.19, 90.85, 91.42),
    "BERT-E-X": (89.99, 90.39, 90.18, 90.82),
    "BERT-E-E": (90.00, 90.68, 90.31, 90.91),
}

# Table 1: GLUE's QQP test set, percent: accuracy, F1 of the duplicates; None where nothing is printed.
TABLE1: dict[str, tuple[float | None, float | None]] = {
    "BiLSTM+Attn, ELMo": (86.5, 66.1),
    "BERT-BASE": (None, 71.2),
    "BERT-LARGE": (None, BERT_LARGE_TEST_F1),
    "GPT": (None, 70.3),
    "ERNIE2.0-BASE": (89.8, 73.2),
    "ERNIE2.0-LARGE": (90.1, 73.8),
    "XLNet": (90.4, None),
    "ELECTRA": (90.8, None),
    "ERNIE": (90.9, 75.2),
    "Turing NLR v5": (91.1, TURING_TEST_F1),
}


@dataclass(frozen=True)
class Finding:
    """A figure of the paper, the recomputed one, and why they differ."""

    table: str
    row: str
    printed: str
    recomputed: str
    explanation: str

    def document(self) -> dict[str, Any]:
        """The finding as printed by `--json`."""
        return asdict(self)


def audit_table2(config: RunConfig) -> Finding:
    """Compare a preset's printed parameter count with the exact one, and find the rule behind it."""
    paper, exact, layers = config.paper, count_parameters(config), config.model.num_layers
    assert paper is not None, "only the twenty presets have a row in Table 2"
    return Finding(
        "Table 2",
        config.name,
        paper.params,
        f"{exact:,}",
        _explain_parameters(config.family, layers, exact, paper.params),
    )


def _explain_parameters(family: str, layers: int, exact: int, printed: str) -> str:
    value = float(printed[:-1]) * UNITS[printed[-1]]
    decimals = len(printed[:-1].partition(".")[2])
    if round(exact / UNITS[printed[-1]], decimals) == float(printed[:-1]):
        return "the exact count, rounded"
    if family == "bert":
        rule = MILLIONS_PER_BERT_LAYER * layers * 1e6
        if abs(rule - value) <= 0.5 * 10**-decimals * UNITS[printed[-1]]:
            return f"13.75M x {layers} layers: BERT-Large's 330M over 24, in which embeddings count as layers"
        stands_for = value / 1e6 / MILLIONS_PER_BERT_LAYER
        return f"13.75M x {layers} is {rule / 1e6:g}M; {printed} is the rule at {stands_for:g} layers"
    scaled = BILLIONS_AT_36_LAYERS * layers / 36
    if family == "gpt" and round(scaled, decimals) == float(printed[:-1]):
        return f"2.9B x {layers}/36 = {scaled:.1f}B: which scales the embeddings with the layers"
    return f"truncated; {exact / 1e9:.2f}B rounds up" if value < exact else "not explained"


@dataclass(frozen=True)
class QqpScores:
    """The scores of a confusion matrix on the QQP dev set, as fractions."""

    precision_macro: float
    recall_macro: float
    f1_macro: float
    f1_positive: float


def implied_scores(accuracy: float, recall_macro: float) -> QqpScores:
    """The scores implied by accuracy, macro recall and the share of duplicates in the dev set.

    They determine the two-class confusion matrix: accuracy = p t + (1 - p) n and 2 recall_macro = t + n, for
    the true-positive rate t, the true-negative rate n and the share of duplicates p.
    """
    p = QQP_DEV_DUPLICATES / QQP_DEV_PAIRS
    t = (accuracy - (1 - p) * 2 * recall_macro) / (2 * p - 1)
    n = 2 * recall_macro - t
    precision_positive = p * t / (p * t + (1 - p) * (1 - n))
    precision_negative = (1 - p) * n / ((1 - p) * n + p * (1 - t))
    f1_positive = 2 * precision_positive * t / (precision_positive + t)
    f1_negative = 2 * precision_negative * n / (precision_negative + n)
    return QqpScores(
        (precision_positive + precision_negative) / 2,
        recall_macro,
        (f1_positive + f1_negative) / 2,
        f1_positive,
    )


def audit_table3(model: str) -> Finding:
    """A row of Table 3, whose precision and F1 follow from accuracy and recall if both are macro averages."""
    precision, recall, f1, accuracy = TABLE3[model]
    implied = implied_scores(accuracy / 100, recall / 100)
    return Finding(
        "Table 3",
        model,
        f"precision {precision:.2f}, F1 {f1:.2f}",
        f"macro precision {100 * implied.precision_macro:.2f}, macro F1 {100 * implied.f1_macro:.2f}",
        f"macro averages; F1 of the duplicates alone, as in GLUE, is about {100 * implied.f1_positive:.1f}",
    )


def audit_table1() -> list[Finding]:
    """The paper's two comparisons of Table 3 with Table 1."""
    _, _, f1, accuracy = TABLE3["BERT-E-L"]
    implied = implied_scores(accuracy / 100, TABLE3["BERT-E-L"][1] / 100)
    return [
        Finding(
            "Table 1",
            "F1 against Turing NLR v5",
            f"+{f1 - TURING_TEST_F1:.2f}",
            "not comparable",
            f"{f1} is macro F1 on the dev set, {TURING_TEST_F1} is F1 of the duplicates on the test set; "
            f"by that metric BERT-E-L has about {100 * implied.f1_positive:.1f} on the dev set",
        ),
        Finding(
            "Table 1",
            "accuracy against BERT-Large",
            f"+{accuracy - BERT_LARGE_TEST_F1:.2f}",
            "not comparable",
            f"{BERT_LARGE_TEST_F1} is BERT-Large's F1; Table 1 prints no accuracy for it",
        ),
    ]


def audit_statements_on_table4(configs: Mapping[str, RunConfig]) -> list[Finding]:
    """Compare the statements of sections 4.1, 5.1 and 5.2 on cost with Table 4.

    Args:
        configs: the twenty presets by name.
    """
    facts = {name: config.paper for name, config in configs.items() if config.paper}
    longest = max(facts, key=lambda name: facts[name].hours)
    fewest = min(facts, key=lambda name: facts[name].steps)
    smallest, shallow, deep = "BERT-C", "BERT-X-EN-S", "BERT-X-EN-M"
    gpt_steps = sorted(facts[name].steps for name, config in configs.items() if config.family == "gpt")
    ratio = step_flops(configs[deep]).model / step_flops(configs[shallow]).model
    return [
        Finding(
            "Table 4",
            f"steps of {fewest}",
            "100,000 (section 5.2)",
            f"{facts[fewest].steps:,}",
            "the text has one zero too many, or the table one too few",
        ),
        Finding(
            "Table 4",
            "longest run",
            "CPM-X-EN (section 5.2)",
            longest,
            f"no model is called CPM-X-EN; {facts[longest].hours:g} h and {facts[longest].steps:,} steps are "
            f"{shallow}'s and {deep}'s",
        ),
        Finding(
            "Table 4",
            f"{shallow} and {deep}",
            f"both {facts[shallow].hours:g} h for {facts[shallow].steps:,} steps",
            f"{ratio:.2f} times the work per step",
            "36 and 48 layers take the same time only with different batches, or one row copies the other",
        ),
        Finding(
            "Table 4",
            "GPT iterations",
            "300,000 (section 4.1)",
            f"{gpt_steps[0]:,} to {gpt_steps[-1]:,}",
            "section 4.1 gives the plan and Table 4 the runs; no GPT row has 300,000",
        ),
        Finding(
            "Table 4",
            "smallest model",
            f"{smallest}, {facts[smallest].params} (section 5.1)",
            f"{count_parameters(configs[smallest]):,}",
            "correct: the fewest parameters of the twenty",
        ),
    ]
