"""`fpm export`: a run's weights for other libraries."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, show, show_json, stderr_console
from fpm_cli.progress_bars import StageProgress
from fpm_cli.runs.run import Run

EXAMPLES = (
    "Examples:\n\n  fpm export runs/CPM-X-L-proxy --format transformers --out exports/CPM-X-L-proxy\n\n"
    "  fpm export runs/BERT-C-proxy --out exports/BERT-C-proxy --json"
)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    format_: Annotated[
        Literal["transformers"], typer.Option("--format", help="The format to write.")
    ] = "transformers",
    as_json: JsonFlag = False,
) -> None:
    """Write config.json, model.safetensors, tokenizer files and a model card.

    A fine-tuned run becomes a classifier (`...ForSequenceClassification`).

    The folder is reloaded with transformers, and kept only if logits and token ids equal those of the run.
    """
    from fpm_cli.interop.export_run import export_run

    with StageProgress("steps", stderr_console()) as progress:
        exported = export_run(Run.open(run), out, progress.update)
    comparison = exported.comparison
    if as_json:
        show_json(
            "export",
            {
                "run": str(run),
                "out": str(out),
                "format": format_,
                "architecture": exported.class_name,
                "compared": list(comparison.compared),
                "difference": comparison.difference,
                "largest": comparison.largest,
                "tokenizer": exported.tokenizer,
            },
        )
    else:
        show(f"{out}: {exported.class_name}. {comparison}.\nTokenizer: {exported.tokenizer}.")
