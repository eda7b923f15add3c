"""Where a training runs is said in the same flags to `fpm pretrain` and to `fpm finetune`."""

import itertools
import json
import subprocess
import time
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.runs.run import Run

PRETRAIN = ["pretrain", "--preset", "BERT-C", "--proxy"]


@pytest.fixture
def finetune(tmp_path: Path) -> list[str]:
    """The flags of a fine-tuning, whose files need not be read to plan it."""
    source = tmp_path / "source"
    Run.create(source, resolve("BERT-C", proxy=True, environment={}).config, None)
    files = ["--train", "a b.tsv", "--train", "c.tsv", "--dev", "d.tsv", "--validation", "held.tsv"]
    return ["finetune", "tnews", "--from", str(source), *files, "--set", "finetune.epochs=2"]


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("localhost slots=2\n")
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert fpm([*arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(params=["pretrain", "finetune"])
def verb(request: pytest.FixtureRequest, finetune: list[str]) -> list[str]:
    return PRETRAIN if request.param == "pretrain" else finetune


def test_a_batch_script_begins_the_run_and_later_resumes_it(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script runs with stand-ins that print what each would have been given."""
    out = tmp_path / "run"
    where = ["--launcher", "slurm", "--nproc", "4", "--nnodes", "2", "--launcher-arg=--time=1:00"]
    script = said(capsys, *verb, "--out", str(out), *where, "--dry-run")
    assert not out.exists()
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --time=1:00\n" in script
    assert "--gpus-per-node" not in script, "the weights are a proxy's"
    stand_ins = 'scontrol() { echo n1; }; srun() { printf "%s\\n" "${@:6}"; }; SLURM_JOB_ID=7\n'

    def started() -> list[str]:
        done = subprocess.run(["bash", "-c", stand_ins + script], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    own = [
        "--out",
        str(out),
        "--nproc",
        "4",
        "--nnodes",
        "2",
        "--master-addr",
        "n1",
        "--master-port",
        "20007",
    ]
    begun = started()
    assert begun[begun.index("fpm_cli") + 1] == verb[0]
    assert begun[-len(own) :] == own
    for flag, value in itertools.pairwise(verb):
        if flag.startswith("--") and not value.startswith("--"):
            assert (flag, value) in itertools.pairwise(begun), "words with spaces stay one word"
    out.mkdir()
    (out / "config.toml").touch()
    assert started()[started().index(verb[0]) :] == [verb[0], "--resume", *own]


def test_options_of_sbatch_stay_whole_and_a_task_has_cores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [*PRETRAIN, "--out", str(tmp_path / "run"), "--launcher", "slurm", "--nproc", "4", "--dry-run"]
    script = said(capsys, *where, "--launcher-arg=--comment=two words")
    assert "#SBATCH '--comment=two words'\n" in script
    assert "#SBATCH --cpus-per-task=16\n" in script and "SRUN_CPUS_PER_TASK" in script
    script = said(capsys, *where, "--launcher-arg=--cpus-per-task=64")
    assert [line for line in script.splitlines() if "cpus-per-task" in line] == ["#SBATCH --cpus-per-task=64"]
    assert fpm([*where, "--launcher-arg=--comment=a\nrm -rf /"]) == 2
    assert "line break" in capsys.readouterr().err


def test_a_wrong_address_is_refused_before_the_wait_for_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "no.such.host.invalid"]
    began = time.monotonic()
    assert fpm([*PRETRAIN, "--nproc", "1", "--out", str(tmp_path / "run"), *address]) == 3
    assert "no.such.host.invalid cannot be reached" in capsys.readouterr().err
    assert time.monotonic() - began < 60, "a wait for the folder takes 600 s"


def test_deepspeeds_command_runs_the_worker_of_the_verb(
    verb: list[str], hostfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--launcher", "deepspeed", "--hostfile", str(hostfile), "--out", str(tmp_path / "run")]
    script = said(capsys, *verb, *where, "--dry-run")
    assert f"fpm {verb[0]}" in script and f"--hostfile {hostfile}" in script
    assert "fpm_cli.engine.worker" in script
    document = json.loads(said(capsys, *verb, *where, "--dry-run", "--json"))
    assert document["launch"] + "\n" == script


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--launcher", "deepspeed"], "--hostfile"),
        (["--launcher", "slurm"], "needs --nproc"),
        (["--launcher-arg=--time=1:00"], "needs --launcher deepspeed or slurm"),
        (["--nnodes", "2", "--nproc", "1"], "--master-addr"),
        (["--nnodes", "2", "--node-rank", "1", "--master-addr", "n1"], "needs --out"),
        (["--launcher", "slurm", "--nproc", "1", "--resume"], "leave out --resume"),
    ],
)
def test_what_does_not_go_together_is_refused(
    verb: list[str], flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ["finetune"] if "--resume" in flags and verb[0] == "finetune" else verb
    assert fpm([*begin, *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_local_fine_tuning_has_no_script_to_print(
    finetune: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm([*finetune, "--dry-run"]) == 2
    assert "--launcher deepspeed or slurm" in capsys.readouterr().err
