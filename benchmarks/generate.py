"""What a token costs to generate, against how many were read before it, with and without the cache.

    python -m benchmarks.generate --out generate.json

A small GPT and a small encoder-decoder with initial weights write `--length` tokens greedily: with the cache
of keys and values, without it, and the GPT as transformers generates from the exported run, with the same
tokens. The cost of a token is the CPU time of the process between two passes through the decoder, which other
work on the machine disturbs little: the median of the 32 tokens up to each length. With the cache it may grow
with the length (attention reads all keys) but not with its square.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.measurements import Measurement, interleave, measurement, parse_arguments, report
from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.config.resolve import resolve
from fpm_cli.corpus.samples import sample_text
from fpm_cli.inference.generate import generate
from fpm_cli.inference.sampling import SamplingConfig
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.interop.export_run import export_run
from fpm_cli.models.build import build_model
from fpm_cli.runs.run import Run
from fpm_cli.tokenization import train_tokenizer

PROMPT = "却说曹操"
WINDOW = 32  # tokens over which the median is taken
PRESETS = {"gpt": "CPM-X-S", "encdec": "CPM-2-X-S"}


def main() -> None:
    """Time both families."""
    options = parse_arguments(__doc__, add_arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for family in options.families for row in measure(family, Path(folder) / family, options)]
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--length", type=int, default=1024, help="tokens, a power of two")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--families", nargs="*", default=list(PRESETS))


def measure(family: str, folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """A token's cost at each length, with the cache, without it, and for a GPT in transformers."""
    trained = make_run(folder / "run", family, options)
    sides = {
        "with the cache": partial(seconds_per_token, trained, options, cached=True),
        "without the cache": partial(seconds_per_token, trained, options, cached=False),
    }
    if family == "gpt":
        export_run(trained.run, folder / "exported")
        sides["transformers"] = partial(seconds_in_transformers, trained, folder / "exported", options)
    seconds = interleave(sides, options.rounds)
    ours = seconds.pop("with the cache")
    return [
        measurement(
            "seconds per generated token",
            f"{family} {options.layers} x {options.width}, token {length}",
            peer,
            [statistics.median(costs[length - WINDOW : length]) for costs in ours],
            [statistics.median(costs[length - WINDOW : length]) for costs in theirs],
        )
        for peer, theirs in seconds.items()
        for length in (64 << n for n in range((options.length // 64).bit_length()))
    ]


def make_run(folder: Path, family: str, options: argparse.Namespace) -> TrainedModel:
    """A run with initial weights, a tokenizer from the packaged sample, and room for the whole text."""
    positions = 0 if family == "encdec" else options.length + 64
    values = {
        "model.num_layers": options.layers,
        "model.hidden_size": options.width,
        "model.head_size": options.width // 4,
        "model.ffn_size": 4 * options.width,
        "model.max_positions": positions,
    }
    assignments = [f"{key}={value}" for key, value in values.items()]
    config = resolve(PRESETS[family], proxy=True, environment={}, assignments=assignments).config
    run = Run.create(folder, config, None)
    texts = sample_text(config.language).read_text(encoding="utf-8").split("\n\n")
    tokenizer = train_tokenizer(config.tokenizer, texts, config.model.vocab_size)
    tokenizer.save(run.tokenizer_path)
    weights = {name: p.detach().clone() for name, p in build_model(config).named_parameters()}
    output = "token_embedding.weight" if family == "gpt" else "head.weight"
    weights[output][list(tokenizer.special.ids())] = 0  # never the likeliest, so that no text ends early
    save_weights(run, weights)
    return load_trained_model(run)


def seconds_per_token(trained: TrainedModel, options: argparse.Namespace, cached: bool) -> list[float]:
    """Of each token in turn; the first is left out, since the prompt is read for it."""
    moments: list[float] = []
    decoder = trained.model.get_submodule("decoder")
    hook = decoder.register_forward_hook(lambda *_: moments.append(time.process_time()))
    sampling = SamplingConfig(max_tokens=options.length + 1, temperature=0)
    generate(trained, [PROMPT] * options.batch, sampling, cached=cached)
    hook.remove()
    assert len(moments) > options.length, "the text ended early"
    return [later - earlier for earlier, later in pairwise(moments)]


def seconds_in_transformers(
    trained: TrainedModel, exported: Path, options: argparse.Namespace
) -> list[float]:
    """The same for the exported run in transformers, which must generate the same text."""
    import transformers

    moments: list[float] = []
    model = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    model.transformer.register_forward_hook(lambda *_: moments.append(time.process_time()))
    prompt = torch.tensor([trained.tokenizer.encode(PROMPT)] * options.batch)
    count = options.length + 1
    new = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count,
        min_new_tokens=count, pad_token_id=0,
    )  # fmt: skip
    sampling = SamplingConfig(max_tokens=WINDOW, temperature=0)
    (text,) = generate(trained, [PROMPT], sampling)
    same = trained.tokenizer.decode(new[0, : prompt.shape[1] + WINDOW].tolist())
    assert same == text, "fpm and transformers generate different texts"
    return [later - earlier for earlier, later in pairwise(moments)]


if __name__ == "__main__":
    main()
