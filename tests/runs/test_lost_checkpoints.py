"""A run whose checkpoints are lost is refused instead of trained from step 1, and nothing is changed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.cli.app import run as fpm
from fpm_cli.errors import DamagedError
from fpm_cli.runs.run import Run

OLD_RUN = Path(__file__).parents[1] / "fixtures/run_0_1_0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


def contents(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def remove_all(run: Path) -> None:
    shutil.rmtree(run / "checkpoints/step-4")


def remove_the_folder_itself(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def remove_manifests(run: Path) -> None:
    (run / "checkpoints/step-4/manifest.json").unlink()


def remove_all_and_latest(run: Path) -> None:
    remove_all(run)
    (run / "latest").unlink()


@pytest.mark.parametrize("allow", [[], ["--allow-config-change", "--set", "train.steps=7"]])
@pytest.mark.parametrize(
    "damage", [remove_all, remove_the_folder_itself, remove_manifests, remove_all_and_latest]
)
def test_a_run_that_lost_its_checkpoints_is_refused_and_left_as_it_is(
    run: Path, damage: Callable[[Path], None], allow: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    before = contents(run)
    assert fpm(["-q", "pretrain", "--resume", "--nproc", "1", "--out", str(run), *allow]) == 6
    assert "has no complete checkpoint, but" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.parametrize("record", ["imported", "task"])
def test_a_run_that_was_created_with_a_checkpoint_does_not_start_from_random_weights(
    run: Path, record: str
) -> None:
    remove_all_and_latest(run)
    (run / "metrics.jsonl").unlink()
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    origin = {"run": "a", "name": "b", "step": 1, "weights_fingerprint": None, "tokenizer_fingerprint": "c"}
    manifest |= {
        "imported": {"imported": {"from": "a", "architecture": "BertModel"}},
        "task": {"task": "qqp", "labels": ["no"], "from": origin, "validation": "0.1"}
        | {"num_examples": {}, "examples": {}},
    }[record]
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DamagedError, match="created with one at step 0"):
        find_latest_checkpoint(Run(run))


def test_a_run_that_was_killed_before_its_first_save_starts_again(run: Path) -> None:
    remove_all_and_latest(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [json.dumps(row) + "\n" for row in rows if row["kind"] != "save"]
    (run / "metrics.jsonl").write_text("".join(kept), encoding="utf-8")
    assert find_latest_checkpoint(Run(run)) is None
    assert fpm(["-q", "pretrain", "--resume", "--nproc", "1", "--out", str(run)]) == 0
