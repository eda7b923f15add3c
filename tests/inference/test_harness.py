"""lm-eval gives a run the scores that its own model of transformers gives the run's export."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.samples import sample_text
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.runs.run import Run
from tests.small_runs import tiny

lm_eval = pytest.importorskip("lm_eval")

MAX_NEW = 8
HEAD = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: rows.jsonl}}
test_split: test
doc_to_text: "{{{{before}}}}"
doc_to_target: "{{{{after}}}}"
target_delimiter: ""
output_type: {kind}
"""
TASKS = {
    "continuation": HEAD.format(name="continuation", kind="loglikelihood")
    + "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "choice": HEAD.format(name="choice", kind="multiple_choice").replace("{{after}}", "{{answer}}")
    + 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n',
    "text": HEAD.format(name="text", kind="loglikelihood_rolling").replace("{{before}}", "")
    + "metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]\n",
    "generation": HEAD.format(name="generation", kind="generate_until")
    + f'generation_kwargs: {{until: ["\\n"], max_gen_toks: {MAX_NEW}}}\n'
    + "metric_list: [{metric: exact_match}]\n",
}


@dataclass(frozen=True)
class Evaluated:
    """A GPT, its export, and a folder of tasks with their rows."""

    run: Path
    export: Path
    tasks: Path
    rows: list[dict[str, Any]]


def rows_of(language: str) -> list[dict[str, Any]]:
    """Lines of the packaged text, cut in two; some rows are longer than the network reads, one is empty."""
    text = sample_text("zh" if language == "zh" else "en").read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if len(line) > 60][:24]
    halves = [
        line[:20].rpartition(" ") if language == "en" else (line[:20], "", line[20:40]) for line in lines
    ]
    ends = [(space + end)[:15] or "." for _, space, end in halves]
    rows = [
        {"before": before, "after": end, "choices": [end, ends[index - 1]], "answer": 0}
        for index, ((before, _, _), end) in enumerate(zip(halves, ends, strict=True))
    ]
    rows[3]["before"] = " ".join(lines) if language == "en" else "".join(lines)
    rows[4]["before"] = ""
    return rows


@pytest.fixture(scope="module", params=[pytest.param("EPM-X-S", id="en"), pytest.param("CPM-X-S", id="zh")])
def evaluated(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sample_corpora: Callable[[str], Path],
) -> Iterator[Evaluated]:
    """A GPT of few steps; paths in the tasks are relative to the current folder, as in lm-eval."""
    import datasets
    import transformers

    folder = tmp_path_factory.mktemp("harness")
    rows = rows_of("en" if request.param == "EPM-X-S" else "zh")
    flags = tiny(request.param, "train.steps=3", "model.num_layers=2")
    corpus = str(sample_corpora(request.param))
    assert fpm(["-q", *flags, "--corpus", corpus, "--out", str(folder / "run")]) == 0
    (folder / "tasks").mkdir()
    for name, task in TASKS.items():
        (folder / "tasks" / f"{name}.yaml").write_text(task)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.chdir(folder)
        assert fpm(["-q", "export", "run", "--format", "transformers", "--out", "export"]) == 0
        yield Evaluated(Path("run"), Path("export"), Path("tasks"), rows)


def scores_of(evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], float]:
    capsys.readouterr()
    assert fpm(["evaluate", "lm", str(evaluated.run), "--harness", str(evaluated.tasks), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fpm.evaluate-lm/1"
    return {(score["task"], score["metric"]): score["value"] for score in document["harness"]}


def test_scores_are_those_of_lm_evals_own_model(
    evaluated: Evaluated, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("peft")
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    ours = scores_of(evaluated, capsys)
    theirs = HFLM(str(evaluated.export), trust_remote_code=True, device="cpu", batch_size=4)
    names = [str(evaluated.tasks / f"{name}.yaml") for name in TASKS]
    loaded = TaskManager(include_defaults=False).load(names)
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    results = evaluate(theirs, loaded, bootstrap_iters=0)
    expected = {
        (task, key.removesuffix(",none")): value
        for task, values in results["results"].items()
        for key, value in values.items()
        if key.endswith(",none") and "_stderr" not in key
    }
    assert len(expected) == 6
    assert ours == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_generate_and_the_pipeline_and_lm_eval_give_the_same_ids(evaluated: Evaluated) -> None:
    import transformers
    from lm_eval.api.instance import Instance

    from fpm_cli.inference.generate import generate
    from fpm_cli.inference.harness_model import HarnessModel
    from fpm_cli.inference.sampling import SamplingConfig

    trained = load_trained_model(Run.open(evaluated.run))
    prompts = [row["before"] for row in evaluated.rows if 0 < len(row["before"]) <= 20]
    assert len(prompts) >= 20
    texts = generate(trained, prompts, SamplingConfig(max_tokens=MAX_NEW, temperature=0))
    continue_text = transformers.pipeline(
        "text-generation", model=str(evaluated.export), trust_remote_code=True, device="cpu"
    )
    settings = {"do_sample": False, "return_tensors": True, "max_new_tokens": MAX_NEW, "max_length": None}
    answers = HarnessModel(trained).generate_until(
        [
            Instance("generate_until", {}, (prompt, {"max_gen_toks": MAX_NEW}), index)
            for index, prompt in enumerate(prompts)
        ]
    )
    for prompt, text, answer in zip(prompts, texts, answers, strict=True):
        ids = continue_text(prompt, **settings)[0]["generated_token_ids"]
        length = len(trained.tokenizer.encode(prompt))
        assert list(ids[:length]) == trained.tokenizer.encode(prompt)
        new = [token for token in ids[length:] if token != trained.tokenizer.special.eod]
        assert trained.tokenizer.decode([*ids[:length], *new]) == text
        assert trained.tokenizer.decode(new) == answer


@pytest.mark.parametrize("evaluated", [pytest.param("EPM-X-S", id="en")], indirect=True)
@pytest.mark.parametrize(
    ("tasks", "change", "status", "message"),
    [
        ("gone.yaml", ("", ""), 3, "no such task file"),
        ("nothing", ("", ""), 2, "no task in lm-eval's YAML"),
        ("odd.yaml", ("rows.jsonl", "lost.jsonl"), 3, "lost.jsonl"),
        ("odd.yaml", ("dataset_path: json", "dataset_path: someone/data"), 3, "needs a download"),
        ("odd.yaml", ("output_type: generate_until", "output_type: other"), 2, "not a task that lm-eval can"),
        ("odd.yaml", (f"max_gen_toks: {MAX_NEW}", "num_beams: 2"), 2, "num_beams"),
        ("odd.yaml", (f"max_gen_toks: {MAX_NEW}", "max_gen_toks: 4096"), 2, "max_gen_toks is 4,096"),
        ("odd.yaml,odd.yaml", ("", ""), 2, "already named"),
        (",", ("", ""), 2, "name a task"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(
    tasks: str,
    change: tuple[str, str],
    status: int,
    message: str,
    evaluated: Evaluated,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("nothing").mkdir(exist_ok=True)
    Path("odd.yaml").write_text(TASKS["generation"].replace(*change))
    capsys.readouterr()
    assert fpm(["-q", "evaluate", "lm", str(evaluated.run), "--harness", tasks]) == status
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize("evaluated", [pytest.param("EPM-X-S", id="en")], indirect=True)
def test_without_lm_eval_its_extra_is_named(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    assert fpm(["evaluate", "lm", str(evaluated.run), "--harness", "tasks"]) == 3
    assert "pip install 'fpm-depth[lm-eval]'" in capsys.readouterr().err
