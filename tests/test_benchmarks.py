"""The benchmark suite: ratios of interleaved rounds, results kept by part, slowdowns found between two."""

import importlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import suite
from benchmarks.measurements import Measurement, interleave, measurement, read, report
from benchmarks.suite import PARTS, Results, compare


def noisy(ratio: float, seed: int) -> Measurement:
    """A case measured over nine rounds with 2 % of noise."""
    random = np.random.default_rng(seed)
    ours, peer = ((seconds * (1 + 0.02 * random.standard_normal(9))).tolist() for seconds in (1.0, ratio))
    return measurement("operator", "attention", "PyTorch", ours, peer)


def written(path: Path, row: Measurement) -> Path:
    """A result file of one part."""
    Results.open(path).add("kernels", "abc", 1.0, [row])
    return path


def test_a_measurement_is_the_median_ratio_of_its_rounds_with_numpys_quartiles() -> None:
    ours, peer = [1.0, 2.0, 4.0, 1.0], [3.0, 2.0, 2.0, 5.0]
    row = measurement("part", "case", "peer", ours, peer, asked=1.5)
    ratios = np.array(peer) / np.array(ours)
    assert row.ratio == np.median(ratios)
    assert row.quartiles == tuple(np.quantile(ratios, [0.25, 0.75]))
    assert (row.value, row.peer_value, row.rounds, row.asked) == (1.5, 2.5, 4, 1.5)


def test_sides_take_turns_and_every_round_begins_with_another() -> None:
    order: list[str] = []

    def take(name: str) -> int:
        order.append(name)
        return len(order)

    sides = {name: partial(take, name) for name in "abc"}
    values = interleave(sides, 3)
    assert "".join(order) == "abcbcacab"
    assert values == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [noisy(2.0, 1), noisy(3.0, 2)]
    report(rows, tmp_path / "out.json")
    assert read(tmp_path / "out.json") == rows


def test_a_slowdown_of_15_percent_is_found_and_noise_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path / "before.json", noisy(2.0, 1))
    slower = written(tmp_path / "slower.json", noisy(2.0 / 1.15, 2))
    assert compare(before, slower) == 1
    assert "slower: operator: attention against PyTorch" in capsys.readouterr().out
    false_alarms = sum(
        compare(before, written(tmp_path / f"{seed}.json", noisy(2.0, seed))) for seed in range(3, 53)
    )
    assert false_alarms == 0


def test_a_part_measured_at_this_commit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "revision", lambda: "abc")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("measured again"))
    path = written(tmp_path / "results.json", noisy(2.0, 1))
    assert suite.run_part("kernels", Results.open(path), again=False)
    page = Results.open(path).page()
    assert "| attention | 1 |" in page and "2.0" in page
    assert json.loads(path.read_text())["parts"]["kernels"]["measurements"] == [
        {**asdict(noisy(2.0, 1)), "quartiles": list(noisy(2.0, 1).quartiles)}
    ]


@pytest.mark.parametrize("module", sorted({part.module for part in PARTS.values()}))
def test_every_part_of_the_suite_accepts_its_arguments(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = importlib.import_module(f"benchmarks.{module}")
    for part in (part for part in PARTS.values() if part.module == module):
        arguments = [*part.arguments, "--out", str(tmp_path / "out.json")]
        monkeypatch.setattr("sys.argv", [module, *arguments])
        options = benchmark.parse_arguments(benchmark.__doc__, benchmark.add_arguments)
        assert options.out == tmp_path / "out.json"
