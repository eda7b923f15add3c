"""Row: saved on so many ranks under one ZeRO stage, resumed on as many or others under any stage.

The same world goes on bit for bit; another one with the same samples, and losses within TOLERANCE.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from tests.small_runs import finish, metrics, start, tiny
from tests.torture.scale import counts

TOLERANCE = 1e-5  # nats a prediction in fp32; the order of additions differs, the samples do not
STEPS, HALF = 6, 3
Place = tuple[int, int]  # ranks, ZeRO stage
ALL = tuple(itertools.product((1, 2), (0, 1, 2, 3)))
Sources = Callable[[Place], Path]
SIZES = ("model.num_layers=2", "train.micro_batch=2", f"train.save_every={HALF}", f"train.steps={STEPS}")
PLAIN = ("train.schedule=constant", "train.warmup_steps=0")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Sources:
    """An uninterrupted run at each place, made when first asked for."""
    folder = tmp_path_factory.mktemp("sources")

    def source(place: Place) -> Path:
        nproc, stage = place
        run = folder / f"{nproc}-{stage}"
        if not run.exists():
            train(run, sample_corpora("CPM-X-S"), nproc, f"engine.zero_stage={stage}")
        return run

    return source


def train(run: Path, corpus: Path, nproc: int, *assignments: str) -> None:
    flags = tiny("CPM-X-S", *SIZES, *PLAIN, "model.dropout=0", *assignments)
    succeed(["-q", *flags, "--corpus", str(corpus), "--out", str(run)], nproc)


def succeed(arguments: list[str], nproc: int) -> None:
    """One rank trains here, which spares an import; several need processes anyway."""
    arguments = [*arguments, "--nproc", str(nproc)]
    status, said = (fpm(arguments), "") if nproc == 1 else finish(start(arguments))
    assert status == 0, said


def resumed(source: Path, run: Path, nproc: int, *assignments: str) -> Path:
    """A copy of `source` without its last checkpoint resumes from the one in its middle."""
    shutil.copytree(source, run)
    shutil.rmtree(run / f"checkpoints/step-{STEPS}")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "state": "stopped"}))
    flags = [flag for value in assignments for flag in ("--allow-config-change", "--set", value)]
    succeed(["-q", "pretrain", "--resume", "--out", str(run), *flags], nproc)
    return run


def apart(ours: Path, theirs: Path) -> float:
    """The largest difference of the losses, after the same samples."""
    one, other = metrics(ours, "train"), metrics(theirs, "train")
    assert sorted(one) == sorted(other) == list(range(1, STEPS + 1))
    states = [json.loads((last(run) / "state.json").read_text()) for run in (ours, theirs)]
    assert states[0]["samples"] == states[1]["samples"]
    return max(abs(one[step] - other[step]) for step in one)


def last(run: Path) -> Path:
    return run / f"checkpoints/step-{STEPS}"


def identical(ours: Path, theirs: Path) -> bool:
    """Whether the last checkpoints are the same files, byte for byte."""
    contents = [{path.name: path.read_bytes() for path in last(run).iterdir()} for run in (ours, theirs)]
    return contents[0] == contents[1]


FEW = [((2, 2), (1, 0)), ((1, 0), (2, 3)), ((1, 0), (1, 1)), ((1, 3), (1, 3))]


@counts(FEW, list(itertools.product(ALL, ALL)), param="pairs")
def test_any_place_goes_on_from_any_other(
    pairs: list[tuple[Place, Place]], sources: Sources, tmp_path: Path, report: Callable[[str], None]
) -> None:
    worst, same = 0.0, 0
    for saved, (nproc, stage) in pairs:
        source = sources(saved)
        change = [] if stage == saved[1] else [f"engine.zero_stage={stage}"]
        run = resumed(source, tmp_path / "run", nproc, *change)
        difference = apart(source, run)
        assert difference <= TOLERANCE, f"{saved} -> {(nproc, stage)}: {difference}"
        if saved == (nproc, stage):
            assert identical(source, run), f"{saved}: resumed, it is another state"
            same += 1
        worst = max(worst, difference)
        shutil.rmtree(run)
    report(
        f"resume: {len(pairs)} pairs of (ranks, ZeRO stage): {same} unchanged ones bit for bit, "
        f"the others' losses within {worst:.1e} (allowed {TOLERANCE:.0e})"
    )


# DeepSpeed refuses fp16 on CPUs.
@counts((0, 1), (0, 1, 2, 3), param="stages")
def test_bf16_goes_on_bit_for_bit(
    stages: Sequence[int],
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    report: Callable[[str], None],
) -> None:
    for stage in stages:
        source = tmp_path / f"stage-{stage}"
        train(source, sample_corpora("CPM-X-S"), 1, "engine.precision=bf16", f"engine.zero_stage={stage}")
        assert identical(source, resumed(source, source.with_suffix(".again"), 1)), stage
    report(f"resume in bf16: ZeRO {', '.join(map(str, stages))}, all bit for bit")
