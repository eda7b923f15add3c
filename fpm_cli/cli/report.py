"""`fpm report`: one run as a self-contained HTML page, or its charts as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.errors import UsageError

EXAMPLES = (
    "Examples:\n\n  fpm report runs/CPM-X-L-proxy\n\n"
    "  fpm report runs/CPM-X-L-proxy --html run.html --png run.png --prompt 话说天下大势"
)


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)],
    html: Annotated[
        Path | None, typer.Option(help="The page to write; by default report.html in the run folder.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="A picture of the charts to write.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Add text that the run generates for this prompt.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write what a run was trained on, its curves, events, cost, scores, configuration and data as a page.

    The page needs no network and no script; it follows the light or dark scheme of the reader's system.
    """
    from fpm_cli.files import replace_text
    from fpm_cli.reports.corpus_facts import corpus_facts
    from fpm_cli.reports.picture import write_png
    from fpm_cli.reports.run_charts import run_charts
    from fpm_cli.reports.run_facts import read_facts
    from fpm_cli.reports.run_page import run_page

    facts = read_facts(run, stored_calibration())
    written = []
    if html or not png:
        path = html or run / "report.html"
        replace_text(path, run_page(facts, _generate(run, prompt or [])))
        written.append(path)
    elif prompt:
        raise UsageError("--prompt is for the page; give --html as well")
    if png:
        corpus = corpus_facts(facts)
        charts = run_charts(facts, corpus.unigram_entropy if corpus else None)
        if not charts:
            raise UsageError(f"{run}: no step was trained, so there is nothing to draw")
        write_png(png, f"{facts.preset}: {run}", charts)
        written.append(png)
    for path in written:
        log(f"{path}: {path.stat().st_size / 1024:,.0f} KiB")
    if as_json:
        show_json("report", {"run": str(run), "files": [str(path) for path in written]})
    else:
        show("\n".join(map(str, written)))


def _generate(run: Path, prompts: list[str]) -> list[tuple[str, str]]:
    if not prompts:
        return []
    from fpm_cli.inference.generate import generate
    from fpm_cli.inference.sampling import SamplingConfig
    from fpm_cli.inference.trained_model import load_trained_model
    from fpm_cli.runs.run import Run

    texts = generate(load_trained_model(Run.open(run)), prompts, SamplingConfig(max_tokens=64, top_k=20))
    return list(zip(prompts, texts, strict=True))
