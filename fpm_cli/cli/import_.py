"""`fpm import`: weights in transformers' format as a run."""

from pathlib import Path
from typing import Annotated

import typer

from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.progress_bars import working

EXAMPLES = (
    "Examples:\n\n  fpm import downloads/bert-base-chinese --out runs/bert-base-chinese\n\n"
    "  fpm import downloads/gpt2 --out runs/gpt2 --name GPT-2 --json"
)


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder as transformers' save_pretrained writes it.")
    ],
    out: Annotated[Path, typer.Option(help="A new run folder.")],
    name: Annotated[str | None, typer.Option(help="The run's name; by default that of the folder.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="An fpm tokenizer to use instead of the one beside the weights.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a run of BERT, MegatronBERT, GPT-2 or T5 v1.1 weights (safetensors only), checked by logits."""
    from fpm_cli.interop.import_run import import_run

    with working("reading the weights and comparing logits", stderr_console()):
        imported = import_run(source, out, name or out.name, tokenizer)
    if imported.untrained_heads:
        log(f"not in the weights, so untrained: {', '.join(imported.untrained_heads)}")
    if not imported.has_tokenizer:
        log("no tokenizer of a kind that fpm has; `fpm generate` and `fpm evaluate` need one (--tokenizer)")
    comparison = imported.comparison
    if as_json:
        show_json(
            "import",
            {
                "run": str(imported.run),
                "name": imported.config.name,
                "family": imported.config.family,
                "architecture": imported.class_name,
                "untrained": list(imported.untrained_heads),
                "tokenizer": imported.config.tokenizer if imported.has_tokenizer else None,
                "compared": list(comparison.compared),
                "difference": comparison.difference,
                "largest": comparison.largest,
            },
        )
    else:
        show(f"{imported.run}: {imported.config.name}, from {imported.class_name}. {comparison}.")
