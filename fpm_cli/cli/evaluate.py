"""`fpm evaluate`: score a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.engine.run import Run, newest_run

app = typer.Typer(help="Score a run: lm (language modelling).", no_args_is_help=True)


@app.command(
    "lm",
    epilog="Examples:\n\n  fpm evaluate lm runs/CPM-X-L-proxy\n\n  fpm evaluate lm --max-samples 64 --json",
)
def evaluate_lm(
    run: Annotated[Path | None, typer.Argument(help="A run folder; by default the newest in runs/.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Score the first N samples only.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Score on this corpus; by default the one that the run trained on.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Loss, perplexity, bits per byte and character on the validation text of the run's corpus."""
    from fpm_cli.tasks.lm import score_language_model
    from fpm_cli.tasks.trained import load_trained

    opened = Run.open(run) if run else newest_run(finished=True)
    log(f"scoring {opened.path}")
    trained = load_trained(opened, corpus)
    score = score_language_model(trained, max_samples=max_samples)
    if as_json:
        about = {"run": str(opened.path), "model": trained.config.name, "step": trained.step, "task": "lm"}
        show_json("evaluate-lm", {**about, **asdict(score)})
        return
    table = Table("measure", "value", title=f"{trained.config.name}, step {trained.step}: {opened.path}")
    for name, value in asdict(score).items():
        text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else f"{value}"
        table.add_row(name.replace("_", " "), text)
    below = score.unigram_entropy - score.loss
    table.add_row("below the unigram level by", f"{below:.4f} nats")
    show(table)
