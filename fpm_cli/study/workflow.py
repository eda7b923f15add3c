"""A study from start to end: tune if asked, train and score the grid, analyse."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock, Timeout

from fpm_cli.errors import UsageError, did_you_mean
from fpm_cli.reports.page import TextTable
from fpm_cli.study.analysis import ScoreAnalysis, analyse, best_learning_rates
from fpm_cli.study.chains import Chain, Stage, build_chains, write_configs
from fpm_cli.study.execution import run_chains
from fpm_cli.study.results import ResultRow, collect_results
from fpm_cli.study.study import Cell, Study
from fpm_cli.study.tables import cost_table, learning_rate_table, score_table

PROXY_NOTE = (
    "The networks are proxies at laptop width. The depth worth having grows with the logarithm of the width "
    "(Levine et al. 2020, arXiv 2006.12467), so that a wider network's optimum is deeper."
)
# (chain, the stage that ended, seconds it took); None and 0 at the start; then the stages done and in all.
Progress = Callable[[Chain | None, Stage | None, float, int, int], None]


@dataclass(frozen=True)
class StudyOutcome:
    """A study as far as it is done."""

    study: Study
    rows: list[ResultRow]
    analyses: list[ScoreAnalysis]

    def tables(self) -> list[TextTable]:
        """What the terminal and the page show."""
        unit = self.study.settings.horizon_unit
        tables = [table for analysis in self.analyses if (table := score_table(analysis, unit))]
        tuned = learning_rate_table(self.study, self.rows)
        return [*tables, *([tuned] if tuned else []), cost_table(self.study, self.rows)]

    def sentences(self) -> list[str]:
        """The verdict of each score and horizon, and the depths that are left out."""
        lines = []
        for analysis in self.analyses:
            name = analysis_name(analysis, self.study)
            if analysis.verdict:
                lines.append(f"{name}: {analysis.verdict.sentence}")
                lines += curve_sentence(analysis)
            lines += [f"{name}: left out: {reason}" for reason in analysis.incomplete]
        if self.study.settings.reference_config.proxy:
            lines.append(PROXY_NOTE)
        return lines

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "study": self.study.settings.name,
            "path": str(self.study.path),
            "analyses": [_document(analysis) for analysis in self.analyses],
            "rows": [asdict(row) for row in self.rows],
        }


def run_study(study: Study, num_jobs: int, num_processes: int, progress: Progress) -> None:
    """Train and score what is left of a study.

    Raises:
        UsageError: another process runs it.
        StoppedError, FpmError: as `run_chains`.
    """
    with _locked(study, ".lock"):
        study.ensure_corpus()
        if study.tuning_cells:
            _run(study, study.tuning_cells, num_jobs, num_processes, progress)
        _run(study, study.cells(_learning_rates(study)), num_jobs, num_processes, progress)


def run_part(study: Study, part: str, num_processes: int, progress: Progress) -> None:
    """Train and score one depth and seed, or one learning rate that is tried, as a task of a job array does.

    Args:
        study: whose corpus is there.
        part: the name of a chain.
        num_processes: devices of each run.
        progress: told of each finished command.

    Raises:
        UsageError: there is no such part, another process runs it, or the rates are not tried yet.
        StoppedError, FpmError: as `run_chains`.
    """
    grid = study.cells(_learning_rates(study))
    tuning = build_chains(study, study.tuning_cells, num_processes)
    chains = {chain.name: chain for chain in (*tuning, *build_chains(study, grid, num_processes))}
    if part not in chains:
        raise UsageError(f"--part {part}: not a part of {study.path}{did_you_mean(part, tuple(chains))}")
    if chains[part] not in tuning and any(chain.next_stage() for chain in tuning):
        raise UsageError(f"--part {part}: the learning rates of {study.path} are not all tried yet")
    with _locked(study, f".lock-{part}"):
        study.ensure_corpus()
        cells = [cell for cell in (*study.tuning_cells, *grid) if cell.name == part or cell.trunk == part]
        _run(study, cells, 1, num_processes, progress)


@contextmanager
def _locked(study: Study, name: str) -> Iterator[None]:
    lock = FileLock(study.path / name)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{study.path}: another process runs this study") from error
    with lock:
        yield


def read_outcome(study: Study) -> StudyOutcome:
    """Read the rows from the run folders, write `results.jsonl`, and analyse."""
    rows = collect_results(study, (*study.tuning_cells, *study.cells(_learning_rates(study))))
    return StudyOutcome(study, rows, analyse(study, rows))


def analysis_name(analysis: ScoreAnalysis, study: Study) -> str:
    """`bits per byte at 1,000 steps`."""
    return f"{analysis.score} at {analysis.horizon:,g} {study.settings.horizon_unit.replace('_', ' ')}"


def curve_sentence(analysis: ScoreAnalysis) -> list[str]:
    """Where the optimum of the fitted parabola is, if it has one; a list of at most one sentence."""
    curve = analysis.curve
    if curve is None or curve.optimum is None:
        return []
    if curve.lack_of_fit_p is not None and curve.lack_of_fit_p < 0.05:
        return [f"a parabola in log depth does not fit (p = {curve.lack_of_fit_p:.3f}): it gives no optimum"]
    if curve.low is None or curve.high is None:
        return ["the optimum of a parabola in log depth has no bounded 95 % interval"]
    interval = f"95 %: {curve.low:.3g} to {curve.high:.3g}"
    return [f"a parabola in log depth has its optimum at {curve.optimum:.3g} layers ({interval})"]


def _learning_rates(study: Study) -> dict[int, float]:
    return best_learning_rates(collect_results(study, study.tuning_cells)) if study.tuning_cells else {}


def _run(study: Study, cells: Sequence[Cell], num_jobs: int, num_processes: int, progress: Progress) -> None:
    write_configs(study, cells)
    chains = build_chains(study, cells, num_processes)
    total = sum(len(chain.stages) for chain in chains)
    done = sum(stage.done for chain in chains for stage in chain.stages)

    def on_done(chain: Chain, stage: Stage, seconds: float) -> None:
        nonlocal done
        done += 1
        progress(chain, stage, seconds, done, total)

    progress(None, None, 0.0, done, total)
    run_chains(chains, study.path / "logs", num_jobs, on_done)


def _document(analysis: ScoreAnalysis) -> dict[str, Any]:
    comparison, sign = analysis.comparison, analysis.sign
    document: dict[str, Any] = {
        "score": analysis.score,
        "horizon": analysis.horizon,
        "lower_is_better": analysis.lower_is_better,
        "incomplete": list(analysis.incomplete),
        "verdict": asdict(analysis.verdict) if analysis.verdict else None,
        "curve": asdict(analysis.curve) if analysis.curve else None,
    }
    if comparison is not None:
        document |= {
            "depths": list(comparison.depths),
            "scores": (sign * comparison.scores).tolist(),
            "means": (sign * comparison.means).tolist(),
            "num_seeds": comparison.num_seeds,
            "residual_std": comparison.residual_std if comparison.num_seeds > 1 else None,
        }
    return document
