"""The page of a study: verdict, curves, what each depth took, runs, configuration and data."""

from pathlib import Path
from statistics import fmean

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.errors import FpmError, UsageError
from fpm_cli.files import replace_text
from fpm_cli.reports.charts import Chart
from fpm_cli.reports.corpus_facts import read_corpus_facts
from fpm_cli.reports.page import Section, TextTable, render_page
from fpm_cli.reports.run_facts import RunFacts, changed_settings, read_facts
from fpm_cli.reports.words import duration, price, setting
from fpm_cli.study.figure import depth_chart
from fpm_cli.study.results import ResultRow
from fpm_cli.study.study import Study
from fpm_cli.study.tables import cost_table, learning_rate_table, score_table
from fpm_cli.study.workflow import PROXY_NOTE, StudyOutcome, analysis_name, curve_sentence

REPORT = "report.html"
Pair = tuple[str, str]


def write_report(
    outcome: StudyOutcome, path: Path | None = None, calibration: Calibration | None = None
) -> Path:
    """Write a study's page, by default `report.html` in its folder, and return where it is."""
    path = path or outcome.study.path / REPORT
    replace_text(path, study_page(outcome, calibration))
    return path


def study_charts(outcome: StudyOutcome) -> list[Chart]:
    """The score over depth, for each score and horizon.

    Raises:
        UsageError: no depth has all its seeds.
    """
    charts = [
        depth_chart(analysis, _sentence(analysis_name(analysis, outcome.study)).removesuffix("."))
        for analysis in outcome.analyses
        if analysis.comparison is not None
    ]
    if not charts:
        raise UsageError(f"{outcome.study.path}: no depth is trained with all its seeds yet")
    return charts


def study_page(outcome: StudyOutcome, calibration: Calibration | None = None) -> str:
    """The HTML page of a study.

    Args:
        outcome: from `read_outcome`.
        calibration: this machine's speed, for predictions beside what was measured.
    """
    study = outcome.study
    settings, config = study.settings, study.settings.reference_config
    facts = _run_facts(outcome, calibration)
    verdicts = [analysis for analysis in outcome.analyses if analysis.verdict]
    lead = " ".join(
        f"{_sentence(analysis_name(a, study)).removesuffix('.')}: {a.verdict.sentence}."
        for a in verdicts
        if a.verdict
    )
    sections = [*_score_sections(outcome)]
    if tuned := learning_rate_table(study, outcome.rows):
        sections.append(Section("Learning rates tried", (), (), (tuned,)))
    predicted = _predicted_table(outcome, facts)
    sections += [
        Section("Cost", (), (), (cost_table(study, outcome.rows), *([predicted] if predicted else []))),
        Section("Runs", (), (), (_runs_table(outcome),)),
        _configuration(study),
        Section("Data", (), (), (TextTable("Data", (), _data(study)),)),
        Section("How to read this", _method(study)),
        Section("Provenance", (), (), (TextTable("Provenance", (), _provenance(study, facts)),)),
    ]
    depths = settings.depths
    proxy, seeds = " (proxy)" if config.proxy else "", ", ".join(map(str, settings.seeds))
    return render_page(
        f"Depth study {settings.name}: {config.name}{proxy}, {min(depths)} to {max(depths)} layers",
        f"{study.path} · {len(outcome.rows)} scored runs · seeds {seeds}",
        lead or "No depth is trained with all its seeds yet.",
        _figures(outcome),
        sections,
    )


def _score_sections(outcome: StudyOutcome) -> list[Section]:
    sections = []
    for analysis in outcome.analyses:
        name = _sentence(analysis_name(analysis, outcome.study)).removesuffix(".")
        left_out = [f"Left out: {reason}." for reason in analysis.incomplete]
        if analysis.comparison is None:
            sections += [Section(name, tuple(left_out))] if left_out else []
            continue
        table = score_table(analysis, outcome.study.settings.horizon_unit)
        paragraphs = [*map(_sentence, curve_sentence(analysis)), *left_out]
        charts = (depth_chart(analysis, "Score over depth"),)
        sections.append(Section(name, tuple(paragraphs), charts, (table,) if table else ()))
    return sections


def _figures(outcome: StudyOutcome) -> list[tuple[str, str, str]]:
    figures = []
    for analysis in outcome.analyses:
        if analysis.comparison and analysis.verdict and analysis.verdict.best is not None:
            best = analysis.sign * float(analysis.comparison.means[analysis.comparison.best])
            figures.append((f"best mean {analysis.score}", f"{best:.4f}", f"{analysis.verdict.best} layers"))
    rows = outcome.rows
    figures.append(("runs", str(len(rows)), f"{sum(row.diverged for row in rows)} diverged"))
    if rows:
        hours = sum(row.device_hours for row in rows)
        figures.append(("device time", duration(hours * 3600), "of all runs"))
        figures.append(("tokens", f"{sum(row.tokens for row in rows):,}", "of all runs"))
        prices = [row.price for row in rows if row.price is not None]
        if len(prices) == len(rows):
            figures.append(("price", price(sum(prices)), "at the price per device-hour"))
    return figures


def _run_facts(outcome: StudyOutcome, calibration: Calibration | None) -> dict[str, RunFacts]:
    """The run folders of the rows, by the row's name; one that was removed is left out."""
    facts = {}
    for row in outcome.rows:
        try:
            facts[row.run] = read_facts(outcome.study.run_path(row.run), calibration)
        except FpmError:
            continue
    return facts


def _predicted_table(outcome: StudyOutcome, facts: dict[str, RunFacts]) -> TextTable | None:
    """Seconds per step of each depth, as predicted from this machine's calibration and as measured."""
    rows = []
    for depth in outcome.study.settings.depths:
        runs = [facts[row.run] for row in outcome.rows if row.depth == depth and row.run in facts]
        costs = [run.costs for run in runs if run.costs]
        measured = [c.measured_seconds_per_step for c in costs if c.measured_seconds_per_step]
        predicted = [c.predicted_seconds_per_step for c in costs if c.predicted_seconds_per_step]
        if measured and predicted:
            ratio = fmean(measured) / fmean(predicted)
            cells = (f"{fmean(predicted):.4g}", f"{fmean(measured):.4g}", f"{ratio:.2f}")
            rows.append((str(depth), *cells))
    columns = ("layers", "predicted", "measured", "measured to predicted")
    return TextTable("Seconds per step", columns, tuple(rows)) if rows else None


def _runs_table(outcome: StudyOutcome) -> TextTable:
    unit = outcome.study.settings.horizon_unit.replace("_", " ")
    tasks = sorted({name for row in outcome.rows for name in row.task_scores or {}})
    has_bits = any(row.bits_per_byte is not None for row in outcome.rows)
    columns = ("run", unit, "loss, nats", *(["bits per byte"] if has_bits else []), *tasks, "time")

    def cells(row: ResultRow) -> tuple[str, ...]:
        scores = row.task_scores or {}
        return (
            row.run,
            f"{row.horizon:,g}",
            "diverged" if row.diverged else _number(row.loss),
            *([_number(row.bits_per_byte)] if has_bits else []),
            *(_number(scores.get(name)) for name in tasks),
            duration(row.seconds),
        )

    names = tuple(name.replace("_", " ") for name in columns)
    return TextTable("Every run", names, tuple(map(cells, outcome.rows)))


def _configuration(study: Study) -> Section:
    config = study.settings.reference_config
    changed = sorted(changed_settings(config).items())
    name = f"{'the proxy of ' if config.proxy else ''}{config.name}"
    if not changed:
        return Section("Configuration", (f"All settings of the reference are those of {name}.",))
    rows = tuple((key, setting(before), setting(after)) for key, (before, after) in changed)
    note = f"Settings of the reference that differ from {name}; each run changes depth, width and seed."
    return Section("Configuration", (note,), (), (TextTable("Settings", ("key", "preset", "study"), rows),))


def _data(study: Study) -> tuple[Pair, ...]:
    settings = study.settings
    facts = read_corpus_facts(study.corpus_path, settings.reference_config.family)
    rows = facts.rows() if facts else [("corpus", f"not available at {settings.corpus}")]
    if facts and facts.unigram_entropy is not None:
        rows.append(("unigram entropy", f"{facts.unigram_entropy:.4f} nats per token of the validation text"))
    if task := settings.task:
        rows += [
            ("task", task.name),
            ("training files", ", ".join(Path(name).name for name in task.train_files)),
            ("dev file", Path(task.dev_file).name),
        ]
    return tuple(rows)


def _provenance(study: Study, facts: dict[str, RunFacts]) -> tuple[Pair, ...]:
    rows = [("continue", f"fpm study resume {study.path}"), ("show", f"fpm study show {study.path}")]
    if facts:
        manifest = next(iter(facts.values())).manifest
        versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
        rows.append(("versions", versions or "not recorded"))
        rows.append(("git revision of fpm", manifest.git_revision or "installed, not a checkout"))
        devices = {
            f"{launch.devices} x {launch.device_name}" for run in facts.values() for launch in run.launches
        }
        rows.append(("devices", ", ".join(sorted(devices))))
    return tuple(rows)


def _method(study: Study) -> tuple[str, ...]:
    settings, config = study.settings, study.settings.reference_config
    seeds = len(settings.seeds)
    lines = [
        f"Every depth is trained from {seeds} seed{'s' if seeds != 1 else ''} with the same samples in the "
        f"same order ({config.language}, {config.tokenizer}); equal over depths: {settings.match}.",
        "A depth is a candidate unless the best one beats it by more than what multiple comparisons with the "
        "best allow at 95 % (seeds as blocks); intervals are of paired differences.",
    ]
    if settings.task:
        lines.append(
            "Intervals of task scores include the choice of evaluation examples as well as that of seeds."
        )
    if config.proxy:
        lines.append(PROXY_NOTE)
    return tuple(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _sentence(text: str) -> str:
    """A text that begins with a capital letter and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."
