"""The page of one run: what was trained on what, curves, events, cost, scores, configuration and data."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.reports.corpus_facts import CorpusFacts, corpus_facts
from fpm_cli.reports.html import ChartEntry, chart_entry, render
from fpm_cli.reports.run_charts import run_charts
from fpm_cli.reports.run_facts import RunFacts
from fpm_cli.reports.task_scores import run_task, task_scores
from fpm_cli.reports.words import duration, price, quantity, setting
from fpm_cli.tasks.scores import Scores

MOST_EVENTS = 40
FAMILIES = {"gpt": "GPT", "bert": "BERT", "encdec": "encoder-decoder"}
Pair = tuple[str, str]


@dataclass(frozen=True)
class LaunchRow:
    """One launch, as text."""

    started: str
    devices: str
    steps: str
    duration: str
    command: str


@dataclass(frozen=True)
class SplitScores:
    """The scores on one split, as text; `confusion` has for each label (count, per cent of shading)."""

    name: str
    num_examples: str
    rows: list[tuple[str, str, str]]
    labels: tuple[str, ...]
    confusion: list[tuple[str, list[tuple[int, int]]]]


@dataclass(frozen=True)
class RunPage:
    """What the template `run.html.j2` shows."""

    title: str
    subtitle: str
    lead: str
    figures: list[tuple[str, str, str]]  # name, value, note
    charts: list[ChartEntry]
    scores: list[SplitScores]
    samples: Sequence[Pair]  # prompt, text
    language: str
    costs: list[Pair]
    launches: list[LaunchRow]
    event_summary: str
    events: list[tuple[int, str]]
    preset: str
    settings: list[tuple[str, str, str]] | None
    data: list[Pair]
    provenance: list[Pair]
    written: str


def run_page(run: RunFacts, samples: Sequence[Pair] = ()) -> str:
    """The HTML page of a run.

    Args:
        run: from `read_facts`.
        samples: prompts with the text that the run generated for them.
    """
    corpus = corpus_facts(run)
    scores = task_scores(run)
    page = RunPage(
        title=_title(run),
        subtitle=f"{run.path} · {_state(run)}{f' · started {_time(run.started)}' if run.started else ''}",
        lead=_lead(run, corpus, scores),
        figures=_figures(run, corpus, scores),
        charts=[
            chart_entry(chart, f"chart-{number}")
            for number, chart in enumerate(run_charts(run, corpus.unigram_entropy if corpus else None))
        ],
        scores=_split_scores(run, scores),
        samples=samples,
        language=run.config.language,
        costs=_costs(run),
        launches=_launches(run),
        event_summary=_event_summary(run),
        events=[(row["step"], str(row.get("message", ""))) for row in _events(run)][:MOST_EVENTS],
        preset=f"{'the proxy of ' if run.config.proxy else ''}{run.preset}",
        settings=_settings(run),
        data=_data(run, corpus),
        provenance=_provenance(run),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return render("run.html.j2", page=page)


def _title(run: RunFacts) -> str:
    name = f"{run.preset}{' (proxy)' if run.config.proxy else ''}"
    layers = f"{run.config.model.num_layers}-layer {FAMILIES[run.config.family]}"
    return f"{name}: {layers}{f', fine-tuned for {run.task}' if run.task else ''}"


def _state(run: RunFacts) -> str:
    if run.state == "finished" or not run.step:
        return run.state
    return f"{run.state} at step {run.step:,} of {run.config.train.steps:,}"


def _time(text: str | None) -> str:
    return text[:16].replace("T", " ") + " UTC" if text else ""


def _lead(run: RunFacts, corpus: CorpusFacts | None, scores: dict[str, Scores]) -> str:
    """Two or three sentences: how long on what, and how well."""
    parameters = f"{count_parameters(run.config):,} parameters"
    if not run.step:
        return f"{FAMILIES[run.config.family]} with {parameters}; no step was trained in this run."
    costs = run.costs
    time = f" in {duration(costs.hours * 3600)} on {costs.devices} x {costs.device_name}" if costs else ""
    steps = f"{run.step:,} of {run.config.train.steps:,} steps"
    trained = f"{steps} trained{time}, {FAMILIES[run.config.family]} with {parameters}."
    loss = run.last("validation", run.token_loss_name)
    if run.task:
        results = "; ".join(
            f"{s.headline} {s.metrics[s.headline]:.4f} on {split} (95 %: {s.ci95[s.headline][0]:.4f} to "
            f"{s.ci95[s.headline][1]:.4f})"
            for split, s in scores.items()
        )
        return f"{trained} {results[:1].upper()}{results[1:] or 'It was not evaluated yet'}."
    if loss is None:
        return trained
    level = corpus.unigram_entropy if corpus else None
    if level is None:
        return f"{trained} The last validation loss is {loss:.4f} nats per {run.loss_unit}."
    side = "below" if loss < level else "above"
    return (
        f"{trained} The last validation loss is {loss:.4f} nats per {run.loss_unit}, "
        f"{abs(level - loss):.3f} {side} the unigram entropy of the same text, the best that a "
        "model without context reaches."
    )


def _figures(
    run: RunFacts, corpus: CorpusFacts | None, scores: dict[str, Scores]
) -> list[tuple[str, str, str]]:
    figures = []
    for split, s in scores.items():
        low, high = s.ci95[s.headline]
        value = f"{s.metrics[s.headline]:.4f}"
        figures.append((f"{s.headline}, {split}", value, f"{low:.4f} to {high:.4f}"))
    if (loss := run.last("validation", "loss")) is not None:
        best_step, best = min(run.curve("validation", "loss"), key=lambda point: point[1])
        note = f"lowest {best:.4f} at step {best_step:,}" if best < loss else ""
        figures.append(("validation loss", f"{loss:.4f}", note))
    if corpus and corpus.unigram_entropy is not None and not run.task:
        figures.append(("unigram entropy", f"{corpus.unigram_entropy:.4f}", "of the validation text"))
    if costs := run.costs:
        figures += [
            ("tokens", f"{costs.tokens:,}", f"{costs.steps:,} steps"),
            ("time", duration(costs.hours * 3600), f"{costs.devices} x {costs.device_name}"),
            ("work", quantity(costs.model_flops, "FLOP"), "model FLOPs"),
        ]
        if costs.mfu is not None:
            figures.append(("MFU", f"{costs.mfu:.1%}", "of the devices' peak, all launches"))
        if costs.price is not None:
            figures.append(("price", price(costs.price), "at the price per device-hour"))
    return figures


def _split_scores(run: RunFacts, scores: dict[str, Scores]) -> list[SplitScores]:
    task = run_task(run)
    if task is None:
        return []
    names = {label: name for name, label in reversed(list(task.label_names.items())) if not name[0].isdigit()}
    shown = []
    for split, s in scores.items():
        rows = [
            (name.replace("_", " "), f"{value:.4f}", "{:.4f} to {:.4f}".format(*s.ci95[name]))
            for name, value in s.metrics.items()
        ]
        confusion = [
            (
                f"{label} {names.get(label, '')}".strip(),
                [(count, round(40 * count / max(1, sum(counts)))) for count in counts],
            )
            for label, counts in zip(task.labels, s.confusion or (), strict=s.confusion is not None)
        ]
        shown.append(SplitScores(split, f"{s.num_examples:,}", rows, task.labels, confusion))
    return shown


def _costs(run: RunFacts) -> list[Pair]:
    costs = run.costs
    if costs is None:
        return []
    measured, predicted = costs.measured_seconds_per_step, costs.predicted_seconds_per_step
    rows = [
        (
            "wall time",
            f"{duration(costs.hours * 3600)} in {costs.launches} launch{'es' * (costs.launches > 1)}",
        ),
        ("device-hours", f"{costs.device_hours:.4g} on {costs.devices} x {costs.device_name}"),
        ("steps", f"{costs.steps:,}, and {costs.steps_run - costs.steps:,} repeated after restarts"),
        ("tokens", f"{costs.tokens:,}"),
        ("model FLOPs", quantity(costs.model_flops, "FLOP")),
        ("hardware FLOPs, with recomputation", quantity(costs.hardware_flops, "FLOP")),
        ("achieved per device", quantity(costs.achieved_flops_per_second, "FLOP/s")),
    ]
    if costs.mfu is not None and costs.hfu is not None:
        rows.append(("MFU, HFU", f"{costs.mfu:.1%}, {costs.hfu:.1%}"))
    if measured is not None:
        rows.append(("seconds per step, measured (median)", f"{measured:.4g}"))
    if predicted is not None:
        rows.append(("seconds per step, predicted", f"{predicted:.4g}"))
    if measured and predicted:
        rows.append(("measured to predicted", f"{measured / predicted:.2f}"))
    if costs.price is not None:
        rows.append(("price", price(costs.price)))
    return rows


def _launches(run: RunFacts) -> list[LaunchRow]:
    return [
        LaunchRow(
            started=_time(launch.started).removesuffix(" UTC"),
            devices=f"{launch.devices} x {launch.device_name}",
            steps=f"{launch.first_step + 1:,} to {launch.last_step:,}",
            duration=duration(launch.seconds),
            command=_command(launch.command),
        )
        for launch in run.launches
    ]


def _command(words: Sequence[str]) -> str:
    """The command line as it is typed: the program's path becomes `fpm`."""
    return shlex.join(["fpm", *words[1:]]) if words else ""


def _events(run: RunFacts) -> list[Any]:
    return [row for row in run.rows if row["kind"] not in ("train", "validation", "layers", "save")]


def _event_summary(run: RunFacts) -> str:
    skipped = len(run.of_kind("skip"))
    rewinds = len(run.of_kind("rewind"))
    restarts = max(0, len(run.launches) - 1)
    counts = (
        f"{restarts} restart{'s' * (restarts != 1)}",
        f"{skipped} skipped step{'s' * (skipped != 1)}",
        f"{rewinds} return{'s' * (rewinds != 1)} to a checkpoint",
    )
    return ", ".join(counts) + "."


def _settings(run: RunFacts) -> list[tuple[str, str, str]] | None:
    from fpm_cli.config.presets import preset_names

    if run.preset not in preset_names():
        return None
    changed = run.changed_settings
    return [(key, setting(before), setting(after)) for key, (before, after) in sorted(changed.items())]


def _data(run: RunFacts, corpus: CorpusFacts | None) -> list[Pair]:
    if task := run.manifest.task:
        start = "random initial weights of" if task.from_scratch else "weights of"
        return [
            ("task", task.name),
            ("training files", run.train_names),
            ("held back for validation", task.validation),
            ("examples", ", ".join(f"{split} {number:,}" for split, number in task.num_examples.items())),
            ("started from", f"{start} {task.origin.name}, step {task.origin.step}"),
        ]
    return corpus.rows() if corpus else [("corpus", "not available at the recorded path")]


def _provenance(run: RunFacts) -> list[Pair]:
    manifest = run.manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    rows = [
        ("versions", versions or "not recorded"),
        ("git revision of fpm", manifest.git_revision or "installed, not a checkout"),
        ("seed", str(run.config.train.seed)),
        ("corpus fingerprint", manifest.corpus_fingerprint),
        ("tokenizer fingerprint", manifest.tokenizer_fingerprint),
    ]
    return [(name, str(value)) for name, value in rows if value]
