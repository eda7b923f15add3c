"""`fpm finetune` from end to end on tiny networks: it learns, resumes, runs on two processes, and refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.examples import read_examples
from fpm_cli.tasks.predict import predict
from tests.preloaded import Preloaded
from tests.small_runs import metrics
from tests.tasks.tuned_runs import finetune_flags


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("BERT-E-S", {"backbone.encoder.0", "backbone.encoder.1"}),
        (
            "EPM-2-X-S",
            {f"backbone.{stack}.{number}" for stack in ("encoder", "decoder") for number in range(2)},
        ),
    ],
)
def test_layer_statistics_cover_every_layer_under_the_classification_head(
    name: str, layers: set[str], place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    values = ("train.layer_statistics=true", "finetune.epochs=1")
    assert fpm(["-q", *finetune_flags(place, name, out, *values)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    statistics = next(row for row in rows if row["kind"] == "layers")
    for kind in ("gradient_norm", "activation_rms"):
        assert set(statistics[kind]) == layers
        assert all(value > 0 for value in statistics[kind].values())


@pytest.mark.parametrize("name", ["BERT-E-S", "EPM-X-S", "EPM-2-X-S"])
def test_each_family_learns_a_task_and_is_scored_by_its_best_weights(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fpm(["-q", *finetune_flags(place, name, out, "finetune.epochs=8"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "fpm.finetune/1" and said["step"] == 72
    assert said["num_examples"] == {"train": 72, "validation": 24}
    losses = metrics(out, "train")
    assert losses[72] < 0.5 * losses[1]
    assert len(metrics(out, "validation")) == 8  # each epoch
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(row["accuracy"] for row in rows if row["kind"] == "validation")
    task = load_task(out / "task.toml")
    examples = read_examples(task, place / "dev.csv").examples
    probabilities = predict(Run.open(out), task, examples)
    assert probabilities.shape == (24, 2) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    right = np.mean(probabilities.argmax(1) == [example.label for example in examples])
    assert right == pytest.approx(best) and right >= 0.9
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["task"] == "praise" and manifest["from"]["run"] == str(place / name)
    assert next(iter(manifest["train_fingerprints"].values()))


def test_real_tokens_are_what_is_counted(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert fpm(["-q", *finetune_flags(place, "BERT-E-S", out, "finetune.epochs=1")]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    from fpm_cli.tasks.encoded import load_encoded

    examples = load_encoded(out / "examples" / "train.safetensors")
    assert sum(row["tokens"] for row in rows if row["kind"] == "train") == examples.lengths.sum()


def test_a_run_that_lost_its_last_checkpoint_learns_the_same_again_bit_for_bit(
    place: Path, tmp_path: Path
) -> None:
    through, parted = tmp_path / "through", tmp_path / "parted"
    more = ("finetune.epochs=2", "engine.keep_last=9", "model.dropout=0.1")
    assert fpm(["-q", *finetune_flags(place, "BERT-E-S", through, *more)]) == 0
    shutil.copytree(through, parted)
    shutil.rmtree(parted / "checkpoints" / "step-18")
    (parted / "latest").write_text("step-9\n")
    manifest = json.loads((parted / "manifest.json").read_text())
    (parted / "manifest.json").write_text(json.dumps({**manifest, "state": "stopped"}))
    assert fpm(["-q", "finetune", "--resume", "--out", str(parted)]) == 0
    for name in ("weights-0.safetensors", "optimizer-0.safetensors"):
        ours, theirs = (run / "checkpoints/step-18" / name for run in (through, parted))
        assert ours.read_bytes() == theirs.read_bytes()
    assert metrics(through, "train") == metrics(parted, "train")


def test_two_processes_learn_what_one_learns(place: Path, tmp_path: Path, preloaded: Preloaded) -> None:
    losses = []
    for nproc in (1, 2):
        out = tmp_path / str(nproc)
        flags = finetune_flags(place, "BERT-E-S", out, "finetune.epochs=1")
        preloaded.fpm([*flags, "--nproc", str(nproc)])
        losses.append((metrics(out, "train"), metrics(out, "validation")))
    assert sorted(losses[0][0]) == list(range(1, 10))
    for one, two in zip(*losses, strict=True):
        assert max(abs(one[step] - two[step]) for step in one) < 1e-4


def test_from_scratch_is_the_same_network_with_fresh_weights(place: Path, tmp_path: Path) -> None:
    from fpm_cli.checkpoints.checkpoint import load_weights
    from fpm_cli.tasks.finetune_run import FinetuneRequest, create_run

    task = load_task(place / "praise.toml")
    made = {}
    for fresh in (False, True):
        request = FinetuneRequest(task, place / "BERT-E-S", (place / "train.csv",), 0.2, from_scratch=fresh)
        made[fresh] = load_weights(create_run(request, tmp_path / str(fresh)))[0]
    source = load_weights(Run.open(place / "BERT-E-S"))[0]
    name = "encoder.layers.1.mlp.branch.up.weight"
    assert made[False].keys() == made[True].keys()
    assert made[False][f"backbone.{name}"].equal(source[name])
    assert not made[True][f"backbone.{name}"].equal(source[name])


def test_weights_in_transformers_format_are_imported_on_the_fly(place: Path, tmp_path: Path) -> None:
    exported, out = tmp_path / "exported", tmp_path / "run"
    assert fpm(["-q", "export", str(place / "BERT-E-S"), "--out", str(exported)]) == 0
    arguments = finetune_flags(place, "BERT-E-S", out, "finetune.epochs=0.2")
    arguments[arguments.index("--from") + 1] = str(exported)
    assert fpm(["-q", *arguments]) == 0
    assert Run.open(out).manifest().task.origin.run == str(exported)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (["--set", "tokenizer=bert-zh"], 6, "tokenizer was bert-en and is now bert-zh"),
        (["--set", "model.vocab_size=7"], 6, "model.vocab_size was"),
        (["--set", "finetune.epoch=3"], 2, "did you mean 'finetune.epochs'?"),
        (["--set", "finetune.pooling=compare"], 2, "praise has one text, not a pair"),
        (["--validation", "1.5"], 2, "a fraction between 0 and 1"),
        (["--from", "nowhere"], 3, "neither a run folder nor one in transformers' format"),
        (["--train", "nowhere.csv"], 3, "no such file"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_nothing(
    change: list[str], status: int, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fpm([*finetune_flags(place, "BERT-E-S", out), *change]) == status
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def test_a_fine_tuned_run_is_no_language_model(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fpm(["-q", *finetune_flags(place, "EPM-X-S", out, "finetune.epochs=0.2")]) == 0
    capsys.readouterr()
    for verb in (["generate", str(out), "--prompt", "good"], ["evaluate", "lm", str(out)]):
        assert fpm(verb) == 2
        message = capsys.readouterr().err
        assert "was fine-tuned for the task praise and predicts labels, not tokens" in message
        assert len(message.partition("error: ")[2].splitlines()) == 1


def test_bad_rows_are_counted_and_may_be_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (place / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(rows + "a text,neither\n")
    arguments = finetune_flags(place, "BERT-E-S", tmp_path / "run", "finetune.epochs=0.2")
    arguments[arguments.index("--train") + 1] = str(tmp_path / "train.csv")
    assert fpm([*arguments, "--max-bad", "0"]) == 6
    assert fpm(arguments) == 0
    assert "73 rows, 72 accepted, 1 rejected" in capsys.readouterr().err


def test_a_run_goes_on_only_with_the_tokenizer_and_examples_it_began_with(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert fpm(["-q", *finetune_flags(place, "BERT-E-S", out, "finetune.epochs=0.2")]) == 0
    again = finetune_flags(place, "BERT-E-S", tmp_path / "other")
    again[again.index("--from") + 1] = str(out)
    assert fpm(again) == 2
    assert "already fine-tuned for praise" in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    changed = {**manifest, "state": "stopped", "tokenizer_fingerprint": "another"}
    (out / "manifest.json").write_text(json.dumps(changed))
    assert fpm(["finetune", "--resume", "--out", str(out)]) == 6
    assert "tokenizer_fingerprint was another and is now" in capsys.readouterr().err
    assert fpm(["finetune", "--resume", "--out", str(out), "--set", "train.lr=1"]) == 2


@pytest.mark.parametrize("name", ["BERT-E-S", "EPM-2-X-S"])
def test_validation_keeps_the_order_in_which_zero_3_gathers_weights(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward pass that does not go through the engine would make DeepSpeed record the order anew."""
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    forgotten: list[int] = []
    forget = PartitionedParameterCoordinator._invalidate_trace
    monkeypatch.setattr(
        PartitionedParameterCoordinator,
        "_invalidate_trace",
        lambda self: forgotten.append(1) or forget(self),
    )
    values = ("engine.zero_stage=3", "finetune.epochs=3")
    assert fpm(["-q", *finetune_flags(place, name, tmp_path / "run", *values)]) == 0
    assert len(metrics(tmp_path / "run", "validation")) == 3
    assert not forgotten


def test_a_score_that_does_not_fit_in_memory_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fpm_cli.inference import memory

    out = tmp_path / "run"
    assert fpm(["-q", *finetune_flags(place, "BERT-E-S", out, "finetune.epochs=1")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    scoring = ["evaluate", str(place / "praise.toml"), str(out), "--input", str(place / "dev.csv")]
    assert fpm(scoring) == 4
    assert "free some, or use a machine with more memory" in capsys.readouterr().err
    assert not list(out.glob("predictions*"))
