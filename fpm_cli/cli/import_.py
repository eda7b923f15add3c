"""`fpm import`: weights in transformers' format as a run."""

from pathlib import Path
from typing import Annotated

import typer

from fpm_cli.cli.console import JsonFlag, log, show, show_json

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
        Path | None, typer.Option(help="A tokenizer of fpm's, instead of the one beside the weights.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a run of BERT, MegatronBERT, GPT-2 or T5 v1.1 weights, proven by logits; safetensors only."""
    from fpm_cli.interop.import_run import import_run

    made = import_run(source, out, name or out.name, tokenizer)
    if made.untrained:
        log(f"absent from the weights, so untrained: {', '.join(made.untrained)}")
    if not made.tokenizer:
        log("no tokenizer that fpm has: `generate` and `evaluate` need one (--tokenizer)")
    agreement = made.agreement
    if as_json:
        show_json(
            "import",
            {
                "run": str(made.run),
                "name": made.config.name,
                "family": made.config.family,
                "architecture": made.architecture,
                "untrained": list(made.untrained),
                "tokenizer": made.config.tokenizer if made.tokenizer else None,
                "compared": list(agreement.compared),
                "difference": agreement.difference,
                "largest": agreement.largest,
            },
        )
    else:
        show(f"{made.run}: {made.config.name}, from {made.architecture}. {agreement}.")
