"""`fpm export`, which verifies logits, beside transformers' `save_pretrained` of the same network.

    python -m benchmarks.export

The exported weights are compared with those that transformers saves, tensor by tensor. CPU seconds, in turns.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.measurements import interleave, measurement, parse_arguments, report
from benchmarks.training import proxy, sample_run
from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.interop.export_run import export_run
from fpm_cli.models.build import build_model


def main() -> None:
    """Export a GPT of some 30 million parameters."""
    import transformers

    options = parse_arguments(__doc__, add_arguments)
    sizes = {"model.num_layers": 8, "model.hidden_size": 512, "model.head_size": 128, "model.ffn_size": 2048}
    config = proxy("CPM-X-S", sizes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, corpus = sample_run(folder, config)
        corpus.tokenizer.save(run.tokenizer_path)
        save_weights(run, {key: p.detach() for key, p in build_model(config).named_parameters()})
        export_run(run, folder / "exported")
        network = transformers.AutoModelForCausalLM.from_pretrained(folder / "exported")
        network.save_pretrained(folder / "saved")
        ours, theirs = (load_file(folder / side / "model.safetensors") for side in ("exported", "saved"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        sides: dict[str, Callable[[Path], object]] = {
            "fpm": lambda out: export_run(run, out),
            "transformers": network.save_pretrained,
        }
        timed = {side: partial(cpu_seconds, write, folder / "timed") for side, write in sides.items()}
        seconds = interleave(timed, options.rounds)
    size = sum(tensor.numel() for tensor in theirs.values()) / 1e6
    row = measurement(
        "export", f"GPT of {size:.0f} million parameters", "save_pretrained", seconds["fpm"],
        seconds["transformers"], limit="fpm also loads the run and the export, and compares their logits",
    )  # fmt: skip
    report([row], options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--rounds", type=int, default=5)


def cpu_seconds(write: Callable[[Path], object], out: Path) -> float:
    """Of writing to a folder that is not there yet."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.process_time()
    write(out)
    return time.process_time() - began


if __name__ == "__main__":
    main()
