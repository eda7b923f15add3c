"""Checkpoints with the names that parameters had before 0.2 load into today's models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.checkpoints.folders import MANIFEST
from fpm_cli.cli.app import run as fpm
from fpm_cli.files import hash_file
from fpm_cli.runs.run import Run
from tests.small_runs import metrics, tiny


def give_old_names(checkpoint: Path) -> None:
    """Rename the embeddings in the JSON files of a checkpoint to what they were, and seal it again.

    The tensors of a leaf keep their name: only the map from leaves to parameters has the parameter's.
    """
    for path in checkpoint.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for old, new in (("tokens", "token_embedding"), ("positions", "position_embedding")):
            text = text.replace(f'"name":"{new}.weight"', f'"name":"{old}.weight"')  # rank-R.json
            text = text.replace(f'"{new}.weight":', f'"{old}.weight":')  # state.json
        path.write_text(text, encoding="utf-8")
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    for name in manifest["files"]:
        facts = hash_file(checkpoint / name)
        manifest["files"][name] = {"bytes": facts.bytes, "xxh3_128": facts.xxh3_128}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_run_with_old_names_resumes_bit_identically(
    tmp_path: Path, sample_corpora: Callable[[str], Path], zero_stage: int
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    corpus = ["--corpus", str(sample_corpora("CPM-X-S")), "--nproc", "1"]
    constant = ("train.schedule=constant", "train.warmup_steps=0", "model.num_layers=2")
    for run, steps in ((whole, 4), (resumed, 2)):
        settings = (f"train.steps={steps}", f"engine.zero_stage={zero_stage}", *constant)
        assert fpm(["-q", *tiny("CPM-X-S", *settings), *corpus, "--out", str(run)]) == 0
    state = resumed / "checkpoints" / "step-2" / "state.json"
    assert '"token_embedding.weight"' in state.read_text(encoding="utf-8")
    give_old_names(state.parent)
    assert '"token_embedding.weight"' not in state.read_text(encoding="utf-8")
    longer = ["--allow-config-change", "--set", "train.steps=4"]
    assert fpm(["-q", "pretrain", "--resume", "--out", str(resumed), *longer]) == 0
    assert metrics(resumed, "train") == metrics(whole, "train")
    expected, _ = load_weights(Run.open(whole))
    weights, step = load_weights(Run.open(resumed))
    assert step == 4 and weights.keys() == expected.keys()
    assert all(weights[name].equal(value) for name, value in expected.items())
