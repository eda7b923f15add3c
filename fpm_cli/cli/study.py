"""`fpm study`: how many layers for this task, language and budget, answered by runs with statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.cli.numbers import MAX_PRICE, MAX_PROCESSES
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.errors import UsageError
from fpm_cli.progress_bars import StageProgress, shows_bars

if TYPE_CHECKING:
    from fpm_cli.reports.page import TextTable
    from fpm_cli.study.chains import Chain, Stage
    from fpm_cli.study.study import Study
    from fpm_cli.study.workflow import Progress

app = typer.Typer(
    help="Compare depths: train a grid, score it, say what the data carry.", no_args_is_help=True
)


class StudyLauncher(StrEnum):
    """Who starts the runs of a study."""

    local = "local"
    slurm = "slurm"


JobsFlag = Annotated[
    int, typer.Option(min=1, max=MAX_PROCESSES, help="Runs side by side; each gets its share of the cores.")
]
NprocFlag = Annotated[int, typer.Option(min=1, max=MAX_PROCESSES, help="Processes (devices) of each run.")]
StudyArgument = Annotated[Path, typer.Argument(help="A study folder, or its name under studies/.")]
DEPTH_EXAMPLES = (
    "Examples:\n\n  fpm study depth --preset CPM-X-S --proxy --depths 2,6,12 --steps 200 --dry-run\n\n"
    "  fpm study depth --preset BERT-E-S --proxy --depths 2,12,48 --match params --tokens 2e6"
)


@app.command("depth", epilog=DEPTH_EXAMPLES)
def depth(
    preset: Annotated[str, typer.Option(help="The preset whose family, language and recipe are studied.")],
    depths: Annotated[str, typer.Option(help="Numbers of layers, such as 2,6,12,24.")],
    proxy: Annotated[bool, typer.Option("--proxy", help="Laptop width; the full depth.")] = False,
    match: Annotated[
        str, typer.Option(help="What is equal over depths: width, params, flops or time.")
    ] = "width",
    width: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_COUNT, help="Hidden size at the reference depth; by default the preset's."
        ),
    ] = None,
    reference_depth: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_COUNT, help="The depth that has that width; by default the least of --depths."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many, or which: 3 is 1,2,3.")] = "3",
    steps: Annotated[str | None, typer.Option(help="Horizons in optimizer steps, such as 500,1000.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Horizons in tokens.")] = None,
    flops: Annotated[str | None, typer.Option(help="Horizons in model FLOPs.")] = None,
    tokens_per_parameter: Annotated[
        str | None, typer.Option(help="Horizons in tokens per parameter.")
    ] = None,
    transfer: Annotated[
        str,
        typer.Option(
            help="How the rate is carried over depth and width: completep, depth-mup, norm-scaling, none; "
            "auto: the first for pre-norm networks."
        ),
    ] = "auto",
    learning_rates: Annotated[
        str | None, typer.Option(help="Tune at each depth over these; by default the rate is transferred.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="A corpus from `fpm build-corpus`; --proxy has a sample of its own.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Fine-tune every run for this task and score it: qqp, tnews, TASK.toml."),
    ] = None,
    train: Annotated[list[Path] | None, typer.Option(help="The task's training files.")] = None,
    dev: Annotated[Path | None, typer.Option(help="The task's evaluation file.")] = None,
    task_set: Annotated[list[str] | None, typer.Option(help="key=value of the fine-tunings.")] = None,
    task_score: Annotated[
        str | None,
        typer.Option(help="What is compared: accuracy (the default), f1_positive or f1_macro."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The study folder; by default a new one in studies/.")
    ] = None,
    jobs: JobsFlag = 1,
    nproc: NprocFlag = 1,
    price: Annotated[
        float | None, typer.Option(min=0, max=MAX_PRICE, help="Of a device-hour, any currency.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what it takes, or with --launcher slurm what is submitted; train nothing."
        ),
    ] = False,
    launcher: Annotated[
        StudyLauncher,
        typer.Option(help="local: on this machine; slurm: a job array, a task per depth and seed."),
    ] = StudyLauncher.local,
    launcher_arg: Annotated[
        list[str] | None,
        typer.Option("--launcher-arg", help="Passed on to sbatch, such as --time=24:00:00."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file over the preset.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over everything.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train one family at several depths and seeds; say which depths cannot be told from the best."""
    from fpm_cli.cli.study_request import StudyRequest, resolve_study
    from fpm_cli.study.study import STUDIES, Study

    horizons = {
        "steps": steps,
        "tokens": tokens,
        "flops": flops,
        "tokens_per_parameter": tokens_per_parameter,
    }
    request = StudyRequest(
        preset=preset,
        proxy=proxy,
        config=config,
        assignments=tuple(assignments or ()),
        depths=depths,
        match=match,
        width=width,
        reference_depth=reference_depth,
        seeds=seeds,
        horizons={name: text for name, text in horizons.items() if text is not None},
        transfer=transfer,
        learning_rates=learning_rates,
        corpus=corpus,
        task=task,
        train_files=tuple(train or ()),
        dev_file=dev,
        task_assignments=tuple(task_set or ()),
        task_score=task_score,
    )
    folder = out or STUDIES / f"{preset}{'-proxy' if proxy else ''}-{match}-{'-'.join(depths.split(','))}"
    settings = resolve_study(request, folder)
    if launcher_arg and launcher is StudyLauncher.local:
        raise UsageError("--launcher-arg needs --launcher slurm to pass it on to")
    if launcher is StudyLauncher.slurm:
        if jobs > 1:
            raise UsageError("--launcher slurm runs as many side by side as SLURM allows; leave out --jobs")
        _submit(Study(folder, settings), nproc, launcher_arg or [], dry_run, as_json)
        return
    if dry_run:
        from fpm_cli.cli.study_request import estimate

        _show_estimate(estimate(settings, folder, jobs, nproc, price), settings.name, as_json)
        return
    study = Study.create(folder, settings)
    _run(study, jobs, nproc, as_json)


@app.command(
    "resume", epilog="Examples:\n\n  fpm study resume my-study\n\n  fpm study resume my-study --jobs 2"
)
def resume(
    study: StudyArgument,
    jobs: JobsFlag = 1,
    nproc: NprocFlag = 1,
    part: Annotated[
        str | None,
        typer.Option(
            help="Only this depth and seed, such as depth-012-seed-1, as a task of a job array does."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Finish what is left of a study."""
    from fpm_cli.study.study import Study

    if part:
        from fpm_cli.study.workflow import run_part

        if as_json:
            raise UsageError("--part trains and prints no result; `fpm study show --json` does")
        with _progress() as progress:
            run_part(Study.open(study), part, nproc, progress)
        return
    _run(Study.open(study), jobs, nproc, as_json)


@app.command("show", epilog="Examples:\n\n  fpm study show my-study\n\n  fpm study show paper --json")
def show_study(study: StudyArgument, as_json: JsonFlag = False) -> None:
    """The tables and the verdict of a study as far as it is done; `paper` is the paper's Table 3."""
    from fpm_cli.study.study import Study

    if str(study) == "paper" and not study.exists():
        _show_paper(as_json)
    else:
        _show(Study.open(study), as_json)


@app.command(
    "layers",
    epilog="Examples:\n\n  fpm study layers runs/CPM-X-L-proxy\n\n"
    "  fpm study layers runs/CPM-X-L-proxy --max-samples 16 --json",
)
def layers(
    run: Annotated[Path, typer.Argument(help="A pretrained run folder.")],
    max_samples: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Validation samples to measure on.")
    ] = 64,
    png: Annotated[Path | None, typer.Option(help="Write the plot into this file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """How much of the depth is used: each layer skipped, its influence, the loss read off after it."""
    from dataclasses import asdict

    from fpm_cli.inference.trained_model import load_trained_model
    from fpm_cli.runs.run import Run
    from fpm_cli.study.layers import measure_layers, plot_layers

    log(f"measuring the layers of {run}")
    trained = load_trained_model(Run.open(run))
    with StageProgress("layers", stderr_console()) as bar:
        report = bar.reporter("skipping each layer")
        measured = measure_layers(trained, max_samples=max_samples, report=report)
    if png:
        plot_layers(measured, png)
        log(f"plot: {png}")
    if as_json:
        show_json("study-layers", {"run": str(run), **asdict(measured)})
        return
    table = Table(title=f"{run}: loss {measured.loss:.4f} on {measured.num_samples} validation samples")
    for name in ("layer", "loss without it", "more", "block influence", "loss read off after it"):
        table.add_column(name, justify="right")
    for row in measured.layers:
        lens = "-" if row.logit_lens_loss is None else f"{row.logit_lens_loss:.4f}"
        more = row.loss_without - measured.loss
        table.add_row(row.name, f"{row.loss_without:.4f}", f"{more:+.4f}", f"{row.block_influence:.4f}", lens)
    show(table)
    show(measured.summary)


def _run(study: "Study", jobs: int, nproc: int, as_json: bool) -> None:
    from fpm_cli.study.workflow import run_study

    with _progress() as progress:
        run_study(study, jobs, nproc, progress)
    _show(study, as_json)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Prints each finished command, and shows a bar where there is a terminal."""
    with StageProgress("commands", stderr_console()) as bar:

        def progress(
            chain: "Chain | None", stage: "Stage | None", seconds: float, done: int, total: int
        ) -> None:
            if chain and stage:
                verb = stage.command[stage.command.index("--quiet") + 1]
                bar.print(f"{done} of {total}: {chain.name}: {verb} took {seconds:.1f} s")
            if shows_bars(bar.console):
                bar.update("training and scoring", done, total)

        yield progress


def _submit(study: "Study", nproc: int, options: list[str], dry_run: bool, as_json: bool) -> None:
    from fpm_cli.launch.hosts import require_programs
    from fpm_cli.launch.slurm import PROGRAMS, submit
    from fpm_cli.study.slurm_arrays import removed_unless_submitted, study_scripts, submit_study
    from fpm_cli.study.study import Study

    scripts, answers = study_scripts(study, nproc, options), tuple[str, ...]()
    if not dry_run:
        require_programs(PROGRAMS, "slurm")
        Study.create(study.path, study.settings)
        with removed_unless_submitted(study):
            answers = submit_study(study, nproc, options, submit)
    if as_json:
        show_json("study-slurm", {"study": str(study.path), "scripts": scripts, "submitted": answers})
        return
    for text in answers or scripts:
        show(text)
    if answers:
        show(f"`fpm study show {study.path}` compares what is done")


def _show(study: "Study", as_json: bool) -> None:
    from fpm_cli.study.page import write_report
    from fpm_cli.study.workflow import read_outcome

    outcome = read_outcome(study)
    page = write_report(outcome, calibration=stored_calibration())
    if as_json:
        show_json("study", outcome.document())
        return
    for table in outcome.tables():
        show(_rich(table))
    for line in outcome.sentences():
        show(line)
    show(f"rows: {study.path / 'results.jsonl'}; page: {page}")


def _show_paper(as_json: bool) -> None:
    from dataclasses import asdict

    from fpm_cli.study.paper_study import analyse_table3
    from fpm_cli.study.tables import paper_seeds_table, paper_table

    verdict = analyse_table3()
    if as_json:
        show_json("study-paper", asdict(verdict))
        return
    show(_rich(paper_table(verdict)))
    show(_rich(paper_seeds_table(verdict)))
    show(verdict.sentence)


def _show_estimate(found: Any, name: str, as_json: bool) -> None:
    if as_json:
        show_json("study-dry-run", {"study": name, **found.document()})
        return
    table = Table("what", "amount", title=f"{name} would take")
    table.add_row("runs", f"{found.runs}")
    if found.finetunings:
        table.add_row("fine-tunings", f"{found.finetunings}")
    table.add_row("model FLOPs", f"{found.model_flops:.4g}")
    table.add_row("device-hours", f"{found.device_hours:.3f}")
    table.add_row("hours", f"{found.hours:.3f}")
    table.add_row("price", "-" if found.price is None else f"{found.price:.2f}")
    show(table)


def _rich(table: "TextTable") -> Table:
    made = Table(title=table.title)
    for column in table.columns:
        made.add_column(column, justify="right", overflow="fold")
    for row in table.rows:
        made.add_row(*row)
    return made
