"""The benchmark suite: ratios of interleaved rounds, results kept by part, slowdowns found between two."""

import importlib
import json
import subprocess
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import readme_table, suite
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
    assert suite.run_part("kernels", Results.open(path), again=False, data=tmp_path)
    page = Results.open(path).page()
    assert "| attention | 1 |" in page and "2.0" in page
    assert json.loads(path.read_text())["parts"]["kernels"]["measurements"] == [
        {**asdict(noisy(2.0, 1)), "quartiles": list(noisy(2.0, 1).quartiles)}
    ]


def test_the_results_themselves_do_not_count_as_changed_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=fpm", "-c", "user.email=fpm@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    result, source = tmp_path / "benchmarks/results/machine.json", tmp_path / "fpm_cli/file.py"
    for path in (result, source):
        path.parent.mkdir(parents=True)
        path.write_text("first")
    git("init")
    git("add", ".")
    git("commit", "--message", "first")
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "RESULTS", result.parent)
    clean = suite.revision()
    result.write_text("second")
    assert suite.revision() == clean and not clean.endswith(suite.CHANGED)
    source.write_text("second")
    assert suite.revision() == clean + suite.CHANGED


def test_a_part_measured_with_changed_sources_is_measured_again(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "results.json")
    for commit in ("abc", f"abc{suite.CHANGED}"):
        results.add("kernels", commit, 1.0, [noisy(2.0, 1)])
        assert results.has("kernels", commit) == (commit == "abc")


def test_a_suite_that_was_ended_continues_with_the_next_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def end_in_the_third_part(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        measured.append(command[2])
        if len(measured) == 3:
            raise KeyboardInterrupt
        report([noisy(2.0, len(measured))], Path(command[command.index("--out") + 1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(suite, "revision", lambda: "abc")
    monkeypatch.setattr("subprocess.run", end_in_the_third_part)
    monkeypatch.setattr("sys.argv", ["suite", "--out", str(tmp_path / "out.json"), "--data", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        suite.main()
    kept = list(json.loads((tmp_path / "out.json").read_text())["parts"])
    assert kept == list(PARTS)[:2]
    assert suite.main() == 0
    assert len(measured) == len(PARTS) + 1
    assert list(json.loads((tmp_path / "out.json").read_text())["parts"]) == list(PARTS)
    assert capsys.readouterr().err.count("already measured at abc") == 2


def test_parts_are_left_out_without_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--only", "tokenize", "--data", str(tmp_path / "missing")]
    monkeypatch.setattr("sys.argv", ["suite", "--out", str(tmp_path / "out.json"), *missing])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("measured"))
    assert suite.main() == 0
    assert "tokenize: left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "stp"], "no part stp; there are step, "),
        (["--compare", "a.json"], "make bench-compare A=old.json B=new.json"),
        (["--compare", "a.json", "b.json"], "not two results of the suite: a.json, b.json"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["suite", *arguments])
    try:
        status = suite.main()
    except SystemExit as error:
        status = error.code  # type: ignore[assignment]
    assert status == 2
    assert message in capsys.readouterr().err


def test_readme_has_the_table_of_the_committed_result() -> None:
    page = readme_table.README.read_text(encoding="utf-8")
    results = readme_table.committed_results()
    assert results
    assert page in map(readme_table.readme, results), "python -m benchmarks.readme_table RESULT.json"


def test_readmes_table_has_the_lowest_and_the_highest_ratio_of_each_stage() -> None:
    rows = [
        measurement("training step", case, "transformers", [1.0], [ratio])
        for case, ratio in (("GPT", 1.254), ("BERT", 1.756), ("BERT, first time", 9.0))
    ]
    lines = readme_table.table(rows).splitlines()
    assert lines[2:] == ["| training step | transformers | 1.25x to 1.76x |"]


@pytest.mark.parametrize("module", sorted({part.module for part in PARTS.values()}))
def test_every_part_of_the_suite_accepts_its_arguments(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = importlib.import_module(f"benchmarks.{module}")
    for part in (part for part in PARTS.values() if part.module == module):
        arguments = [*part.arguments, "--out", str(tmp_path / "out.json")]
        arguments += ["--data", str(tmp_path)] if part.needs_data else []
        monkeypatch.setattr("sys.argv", [module, *arguments])
        options = benchmark.parse_arguments(benchmark.__doc__, benchmark.add_arguments)
        assert options.out == tmp_path / "out.json"
