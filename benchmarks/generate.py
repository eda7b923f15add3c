"""What a token costs to generate, against how many were read before it, with and without the cache.

    python benchmarks/generate.py --out generate.json

A small GPT and a small encoder-decoder with initial weights write `--length` tokens greedily, twice:
keeping what they have read, and reading everything again for each token. The cost of a token is the
CPU time of the process between two passes through the decoder, which other work on the machine
disturbs little: the median of the 32 tokens up to each length. With the cache it may grow with the
length (attention reads all keys) but not with its square; without, the whole text passes through
every layer again.
"""

import sys

sys.path.pop(0)  # this folder: a file in it would hide the standard library's `tokenize`

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.config.resolve import resolve
from fpm_cli.corpus.samples import sample_text
from fpm_cli.inference.generate import generate
from fpm_cli.inference.sampling import SamplingConfig
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.models.build import build_model
from fpm_cli.runs.run import Run
from fpm_cli.tokenization import train_tokenizer

WINDOW = 32  # tokens over which the median is taken
PRESETS = {"gpt": "CPM-X-S", "encdec": "CPM-2-X-S"}


def main() -> None:
    """Time both families and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=1024, help="tokens, a power of two")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--families", nargs="*", default=list(PRESETS))
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    rows = []
    for family in options.families:
        with tempfile.TemporaryDirectory() as folder:
            trained = make_run(Path(folder) / "run", family, options)
        costs = {cached: seconds_per_token(trained, options, cached) for cached in (True, False)}
        for length in (64 << n for n in range((options.length // 64).bit_length())):
            with_cache, without = (
                statistics.median(costs[cached][length - WINDOW : length]) for cached in (True, False)
            )
            rows.append(
                {"family": family, "length": length, "cached_seconds": with_cache, "seconds": without}
            )
    print(f"\n{'family':8} {'length':>7} {'with cache':>12} {'without':>12} {'ratio':>7}   (ms per token)")
    for row in rows:
        ratio = row["seconds"] / row["cached_seconds"]
        print(
            f"{row['family']:8} {row['length']:7} {row['cached_seconds'] * 1e3:12.2f} "
            f"{row['seconds'] * 1e3:12.2f} {ratio:6.1f}x"
        )
    if options.out:
        about = {name: getattr(options, name) for name in ("layers", "width", "batch")}
        about |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        options.out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


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
    train_tokenizer(config.tokenizer, texts, config.model.vocab_size).save(run.tokenizer_path)
    save_weights(run, {name: p.detach() for name, p in build_model(config).named_parameters()})
    trained = load_trained_model(run)
    special = list(trained.tokenizer.special.ids())
    output = trained.model.get_submodule("tokens" if family == "gpt" else "head")
    with torch.no_grad():
        output.get_parameter("weight")[special] = 0  # never the likeliest, so that no text ends early
    return trained


def seconds_per_token(trained: TrainedModel, options: argparse.Namespace, cached: bool) -> list[float]:
    """Of each token in turn; the first is left out, since the prompt is read for it."""
    moments: list[float] = []
    decoder = trained.model.get_submodule("decoder")
    hook = decoder.register_forward_hook(lambda *_: moments.append(time.process_time()))
    sampling = SamplingConfig(max_tokens=options.length + 1, temperature=0)
    generate(trained, ["却说曹操"] * options.batch, sampling, cached=cached)
    hook.remove()
    assert len(moments) > options.length, "the text ended early"
    return [later - earlier for earlier, later in pairwise(moments)]


if __name__ == "__main__":
    main()
