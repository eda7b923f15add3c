"""`fpm generate`: text from a GPT or encoder-decoder run."""

from pathlib import Path
from typing import Annotated

import typer

from fpm_cli.cli.console import JsonFlag, show, show_json
from fpm_cli.engine.run import Run

EXAMPLES = (
    "Examples:\n\n  fpm generate runs/CPM-X-L-proxy --prompt 话说天下大势 --top-k 20\n\n"
    '  fpm generate runs/EPM-X-S-proxy --prompt "It is a truth" --temperature 0 --max-tokens 20'
)


def generate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="At most this many new tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Among the k likeliest; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Among the likeliest that make up p.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Continue a prompt with the newest checkpoint of a run."""
    from fpm_cli.tasks.generate import Sampling
    from fpm_cli.tasks.generate import generate as write
    from fpm_cli.tasks.trained import load_trained

    trained = load_trained(Run.open(run))
    text = write(trained, prompt, Sampling(max_tokens, temperature, top_k, top_p, seed))
    if as_json:
        show_json("generate", {"run": str(run), "prompt": prompt, "text": text})
    else:
        show(text)
