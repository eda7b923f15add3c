"""The paper's results on a task: rows of the same split and metrics, and notes on what is not comparable."""

from dataclasses import asdict, dataclass
from typing import Any

from fpm_cli.accounting.paper_tables import (
    BERT_LARGE_TEST_F1,
    QQP_DEV_PAIRS,
    TABLE1,
    TABLE3,
    TURING_TEST_F1,
    implied_scores,
)

DEV, TEST = ("dev", "validation"), ("test",)
QQP_TEST_PAIRS = 390_965
TNEWS_PAPER_ACCURACY, TNEWS_ALBERT_ACCURACY = 65.86, 59.46  # section 4.3, per cent


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper as fractions, named as in `scores.Scores`; None where the paper has no value."""

    system: str
    source: str
    split: str
    num_examples: int
    accuracy: float | None = None
    f1_positive: float | None = None
    precision_macro: float | None = None
    recall_macro: float | None = None
    f1_macro: float | None = None

    def document(self) -> dict[str, Any]:
        """The document for `--json`."""
        return asdict(self)


def paper_rows(task_name: str, split: str, num_examples: int) -> tuple[list[PaperRow], list[str]]:
    """The paper's rows for a task and split, and notes that a comparison needs.

    Args:
        task_name: `qqp` and `tnews` are in the paper.
        split: of the scored file.
        num_examples: of the scored file.
    """
    if task_name == "tnews":
        return [], [
            f"the paper gives BERT-C {TNEWS_PAPER_ACCURACY} % accuracy and ALBERT-xxlarge "
            f"{TNEWS_ALBERT_ACCURACY} % without naming the split, so neither is in the table"
        ]
    if task_name != "qqp":
        return [], []
    if split in DEV:
        return _table3(), [*_notes_on_table3(), *_other_examples(split, num_examples, QQP_DEV_PAIRS)]
    if split in TEST:
        notes = ["Table 1 prints GLUE's F1, of the duplicates: it is in the column F1 of 1, not in macro F1"]
        return _table1(), [*notes, *_other_examples(split, num_examples, QQP_TEST_PAIRS)]
    return [], [f"no row of the paper is of the split {split!r}: Table 3 is of dev, Table 1 of test"]


def _table3() -> list[PaperRow]:
    return [
        PaperRow(
            *(system, "Table 3", "GLUE dev", QQP_DEV_PAIRS),
            accuracy=accuracy / 100,
            precision_macro=precision / 100,
            recall_macro=recall / 100,
            f1_macro=f1 / 100,
        )
        for system, (precision, recall, f1, accuracy) in TABLE3.items()
    ]


def _table1() -> list[PaperRow]:
    return [
        PaperRow(
            *(system, "Table 1", "GLUE test", QQP_TEST_PAIRS), accuracy=_part(accuracy), f1_positive=_part(f1)
        )
        for system, (accuracy, f1) in TABLE1.items()
    ]


def _notes_on_table3() -> list[str]:
    """Why its F1 is a macro F1, and what follows for the paper's comparisons."""
    parts = []
    for system, (precision, recall, f1, accuracy) in TABLE3.items():
        implied = implied_scores(accuracy / 100, recall / 100)
        harmonic = 2 * precision * recall / (precision + recall)
        parts.append(
            f"{system} {f1:.2f} / {harmonic:.2f} / {100 * implied.f1_macro:.2f} / "
            f"{100 * implied.f1_positive:.1f}"
        )
    _, recall, f1, accuracy = TABLE3["BERT-E-L"]
    return [
        "Table 3's F1 is the macro average, not 2PR/(P+R) and not GLUE's F1. Printed / 2PR/(P+R) / macro F1 "
        f"behind accuracy and recall / F1 of the duplicates behind them: {'; '.join(parts)}",
        f"so its +{f1 - TURING_TEST_F1:.2f} over Table 1 compares macro F1 on dev with F1 of the duplicates "
        f"on test, and its +{accuracy - BERT_LARGE_TEST_F1:.2f} accuracy with F1; Table 1 has no row here",
    ]


def _other_examples(split: str, ours: int, theirs: int) -> list[str]:
    if ours == theirs:
        return []
    return [
        f"the paper's rows are of GLUE's {theirs:,} {split} pairs, this score is of {ours:,} other ones: "
        "not directly comparable",
    ]


def _part(per_cent: float | None) -> float | None:
    return None if per_cent is None else per_cent / 100
