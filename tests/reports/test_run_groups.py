"""Runs of one configuration with different seeds are one group with a mean and an interval."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fpm_cli.reports.run_facts import find_runs
from fpm_cli.reports.run_groups import estimate, group_runs
from tests.reports.report_runs import task_keys, write_run


def names(folder: Path) -> list[list[str]]:
    runs, problems = find_runs(folder)
    assert not problems
    return [[run.path.name for run in group.runs] for group in group_runs(runs)]


def test_only_the_seed_may_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "train.seed=1")
    write_run(tmp_path / "b", "train.seed=2")
    write_run(tmp_path / "c", "train.seed=3", "train.lr=0.5")
    write_run(tmp_path / "d", "train.seed=4", corpus_fingerprint="other")
    write_run(tmp_path / "e", "train.seed=5", state="stopped")
    write_run(tmp_path / "f", "train.seed=2")  # not independent of b
    assert names(tmp_path) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]


def test_fine_tunings_are_grouped_by_the_configuration_that_they_started_from(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / f"pretrained-{seed}", f"train.seed={seed}", preset="BERT-C")
    write_run(tmp_path / "pretrained-3", "train.seed=3", "train.lr=0.5", preset="BERT-C")
    for seed in (1, 2, 3):
        keys = task_keys(str(tmp_path / f"pretrained-{seed}"))
        write_run(tmp_path / f"tuned-{seed}", f"train.seed={seed}", preset="BERT-C", **keys)
    assert ["tuned-1", "tuned-2"] in names(tmp_path) and ["tuned-3"] in names(tmp_path)


def test_the_interval_is_students() -> None:
    values = [4.1, 4.3, 3.9, 4.6]
    found = estimate(values)
    assert found is not None and found.num_runs == 4
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    single = estimate([2.0])
    assert single is not None and single.low is None and single.mean == 2.0
    assert estimate([]) is None
