"""A study as job arrays of SLURM: the scripts' text, and a stand-in of sbatch that runs their tasks."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from fpm_cli.cli.app import run
from tests.small_runs import finish, start

STUDY = (
    *("study", "depth", "--preset", "CPM-X-S", "--proxy", "--depths", "2,4", "--seeds", "1", "--steps", "8"),
    *("--set", "train.sequence_length=32", "--set", "train.eval_samples=4", "--launcher", "slurm"),
)


def scripts(capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    assert run([*STUDY, *flags, "--dry-run", "--json"]) == 0
    document: dict[str, list[str]] = json.loads(capsys.readouterr().out)
    return document["scripts"]


def test_an_array_has_a_task_for_each_depth_and_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "my study"
    (script,) = scripts(capsys, "--out", str(study), "--seeds", "2", "--launcher-arg=--time=1:00:00")
    assert "#SBATCH --array=0-3\n" in script and "#SBATCH --time=1:00:00\n" in script
    assert "#SBATCH --cpus-per-task=4\n" in script and "--gpus" not in script
    assert "parts=(depth-002-seed-1 depth-002-seed-2 depth-004-seed-1 depth-004-seed-2)\n" in script
    assert f"study resume '{study}' --nproc 1 --part " in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert not study.exists()


def test_the_grid_waits_for_the_learning_rates_that_are_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path / "study"), "--learning-rates", "4e-3,8e-3"]
    rates, grid = scripts(capsys, *flags)
    assert "#SBATCH --array=0-3\n" in rates and "depth-002-seed-1-lr-0.004" in rates
    assert "#SBATCH --array=0-1\n" in grid and "#SBATCH --dependency=afterok:TUNING_JOB\n" in grid


def test_without_slurm_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run([*STUDY, "--out", str(tmp_path / "study")]) == 3
    assert "sbatch" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--jobs", "2"], "leave out --jobs"),
        (["--launcher", "local", "--launcher-arg=x"], "--launcher slurm"),
    ],
)
def test_what_does_not_go_together_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*STUDY, *flags, "--out", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.long
def test_the_tasks_of_the_arrays_finish_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs, study = tmp_path / "programs", tmp_path / "study"
    programs.mkdir()
    stand_ins = {
        # Runs every task of the array, one after another.
        "sbatch": "#!/bin/bash\nscript=$(cat); last=${script#*--array=0-}; last=${last%%$'\\n'*}\n"
        'for task in $(seq 0 $last); do SLURM_ARRAY_TASK_ID=$task bash -c "$script" >&2 || exit; done\n'
        "echo Submitted batch job 41\n",
        "srun": '#!/bin/bash\nshift 2\nexec "$@"\n',
        "scontrol": "#!/bin/bash\n",
    }
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    flags = [*STUDY, "--learning-rates", "4e-3,8e-3", "--out", str(study)]
    status, said = finish(start(flags, PATH=f"{programs}:{os.environ['PATH']}"), 600)
    assert status == 0, said
    assert run(["study", "show", str(study), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["tuning"] for row in rows] == [True] * 4 + [False] * 2
    assert all(row["loss"] for row in rows)
    assert run(["study", "resume", str(study), "--part", "depth-002-sed-1"]) == 2
    assert re.search("did you mean .depth-002-seed-1", capsys.readouterr().err.replace("\n", " "))
