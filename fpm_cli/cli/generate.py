"""`fpm generate`: text from a GPT or encoder-decoder run."""

from pathlib import Path
from typing import Annotated

import typer

from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, show, show_json
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.runs.run import Run

EXAMPLES = (
    "Examples:\n\n  fpm generate runs/CPM-X-L-proxy --prompt 话说天下大势 --prompt 却说曹操 --top-k 20\n\n"
    '  fpm generate runs/EPM-X-S-proxy --prompt "It is a truth" --temperature 0 --max-tokens 20\n\n'
    "  fpm generate runs/CPM-X-EVA-proxy --dialogue --prompt 你好 --prompt 你好，吃了吗 --prompt 还没有"
)


def generate(
    run: Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)],
    prompt: Annotated[
        list[str], typer.Option(help="The beginning of the text; several prompts are read as one batch.")
    ],
    dialogue: Annotated[
        bool, typer.Option("--dialogue", help="The prompts are the turns so far; generate the next one.")
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="The maximum number of new tokens.")
    ] = 64,
    temperature: Annotated[
        float, typer.Option(min=0, max=1000, help="From 0.001; 0 always takes the most probable token.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="Sample from the k most probable tokens; 0: from all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Sample from the most probable tokens that sum to p.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_COUNT, help="The same seed gives the same text.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Continue prompts with the newest checkpoint of a run, or reply in a dialogue."""
    from fpm_cli.inference.generate import generate as write
    from fpm_cli.inference.generate import generate_reply
    from fpm_cli.inference.sampling import SamplingConfig
    from fpm_cli.inference.trained_model import load_trained_model

    sampling = SamplingConfig(max_tokens, temperature, top_k, top_p, seed)
    trained = load_trained_model(Run.open(run))
    texts = [generate_reply(trained, prompt, sampling)] if dialogue else write(trained, prompt, sampling)
    if as_json:
        kind = "dialogue" if dialogue else "continuation"
        show_json("generate", {"run": str(run), "kind": kind, "prompts": prompt, "texts": texts})
    else:
        show("\n\n".join(texts))
