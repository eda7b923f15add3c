"""Proxies really learn at full depth, over three seeds, and a known-bad setting fails the same check.

The evidence behind the settings in `fpm_cli/config/proxy.py`: `make torture-depth`, or with the other long
tests `make test-long`. Three quarters of an hour on two cores.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.inference.language_model import score_language_model
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.runs.run import Run
from tests.small_runs import finish, start

SECONDS = 1800.0
NATS = 0.5  # below the unigram level, to count as learning
pytestmark = pytest.mark.long


Report = Callable[[str], None]


def nats_below_unigram(name: str, corpus: Path, run: Path, report: Report, *assignments: str) -> float:
    """Train a preset's proxy as `fpm pretrain --proxy` does; how far its loss is below the unigram level."""
    flags = [flag for value in assignments for flag in ("--set", value)]
    named = ["pretrain", "--preset", name, "--proxy", "--nproc", "2"]
    status, said = finish(start([*named, "--corpus", str(corpus), "--out", str(run), *flags]), SECONDS)
    assert status == 0, said
    score = score_language_model(load_trained_model(Run.open(run)))
    nats = score.unigram_entropy - score.loss
    report(
        f"depth: {name} proxy, {' '.join(assignments)}: loss {score.loss:.3f}, {nats:+.3f} nats below the "
        f"unigram level of {score.unigram_entropy:.3f}"
    )
    return nats


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["CPM-X-L", "CPM-2-X-M", "BERT-E-E"])
def test_deep_proxies_learn(
    name: str, seed: int, tmp_path: Path, sample_corpora: Callable[[str], Path], report: Report
) -> None:
    corpus, run = sample_corpora(name), tmp_path / "run"
    assert nats_below_unigram(name, corpus, run, report, f"train.seed={seed}") > NATS


def test_post_norm_without_warm_up_does_not(
    tmp_path: Path, sample_corpora: Callable[[str], Path], report: Report
) -> None:
    bad = ("model.norm_placement=post", "train.warmup_steps=0", "train.seed=1")
    assert nats_below_unigram("CPM-X-L", sample_corpora("CPM-X-L"), tmp_path / "run", report, *bad) < NATS
