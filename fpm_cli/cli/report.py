"""`fpm report`: one run or one study as a self-contained HTML page, or its charts as a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.progress_bars import working

if TYPE_CHECKING:
    from fpm_cli.reports.charts import Chart

EXAMPLES = (
    "Examples:\n\n  fpm report runs/CPM-X-L-proxy\n\n"
    "  fpm report runs/CPM-X-L-proxy --html run.html --png run.png --prompt 话说天下大势"
)


def report(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN|STUDY", help="A run or study folder.", autocompletion=complete_run),
    ],
    html: Annotated[
        Path | None, typer.Option(help="The page to write; by default report.html in the folder.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="A picture of the charts to write.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A run: add text that it generates for this prompt.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write what was trained on what, its curves, events, cost, scores, configuration and data as a page.

    The page needs no network and no script; it follows the light or dark scheme of the reader's system.
    """
    from fpm_cli.files import replace_text
    from fpm_cli.reports.picture import write_png

    has_page = bool(html or not png)
    if prompt and not has_page:
        raise UsageError("--prompt is for the page; give --html as well")
    page, charts, title = _study(path, prompt) if _is_study(path) else _run(path, prompt or [])
    written = []
    if has_page:
        written.append(html or path / "report.html")
        replace_text(written[-1], page())
    if png:
        write_png(png, title, charts())
        written.append(png)
    for file in written:
        log(f"{file}: {file.stat().st_size / 1024:,.0f} KiB")
    if as_json:
        show_json("report", {"run": str(path), "files": [str(file) for file in written]})
    else:
        show("\n".join(map(str, written)))


def _is_study(path: Path) -> bool:
    if (path / "study.toml").is_file():
        return True
    if not (path / "config.toml").is_file():
        raise MissingError(f"{path}: neither a run folder (config.toml) nor a study folder (study.toml)")
    return False


def _run(path: Path, prompts: list[str]) -> "tuple[Callable[[], str], Callable[[], list[Chart]], str]":
    """The page and the charts of a run, made when they are called, and the picture's title."""
    from fpm_cli.reports.corpus_facts import corpus_facts
    from fpm_cli.reports.run_charts import run_charts
    from fpm_cli.reports.run_facts import read_facts
    from fpm_cli.reports.run_page import run_page

    facts = read_facts(path, stored_calibration())

    def charts() -> "list[Chart]":
        corpus = corpus_facts(facts)
        drawn = run_charts(facts, corpus.unigram_entropy if corpus else None)
        if not drawn:
            raise UsageError(f"{path}: no step was trained, so there is nothing to draw")
        return drawn

    return lambda: run_page(facts, _generate(path, prompts)), charts, f"{facts.preset}: {path}"


def _study(
    path: Path, prompts: list[str] | None
) -> "tuple[Callable[[], str], Callable[[], list[Chart]], str]":
    """The same of a study."""
    from fpm_cli.study.page import study_charts, study_page
    from fpm_cli.study.study import Study
    from fpm_cli.study.workflow import read_outcome

    if prompts:
        raise UsageError("--prompt is for a run; a study has many, each with a page of its own")
    outcome = read_outcome(Study.open(path))
    title = f"Depth study {outcome.study.settings.name}"
    return lambda: study_page(outcome, stored_calibration()), lambda: study_charts(outcome), title


def _generate(run: Path, prompts: list[str]) -> list[tuple[str, str]]:
    if not prompts:
        return []
    from fpm_cli.inference.generate import generate
    from fpm_cli.inference.sampling import SamplingConfig
    from fpm_cli.inference.trained_model import load_trained_model
    from fpm_cli.runs.run import Run

    with working("generating text", stderr_console()):
        texts = generate(load_trained_model(Run.open(run)), prompts, SamplingConfig(max_tokens=64, top_k=20))
    return list(zip(prompts, texts, strict=True))
