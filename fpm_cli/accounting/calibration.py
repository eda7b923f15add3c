"""The speed of this machine's processor, fitted to the times of training steps of small shapes; its file."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fpm_cli.accounting.fit import fit_rates
from fpm_cli.accounting.throughput import StepTime
from fpm_cli.accounting.work import step_work
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError
from fpm_cli.files import replace_text

# Operators per layer, relative to GPT: a decoder layer also has cross-attention, gates and biases.
OPERATORS = {"gpt": 1.0, "bert": 1.0, "encdec": 1.3}
# The loss reads and writes the logits about three times as often (softmax, logarithm, gradients) as other
# operators do their outputs. The ratio was fitted once, so that the calibration needs one rate for both.
LOSS_PASSES = 3
PRESET = {"gpt": "CPM-X-S", "bert": "BERT-C", "encdec": "CPM-2-X-S"}
# (family, layers, hidden size, heads, vocabulary, sequence length, batch, micro-batch, recompute): each
# kind of work dominates the time of some shape.
SHAPES = (
    ("gpt", 2, 32, 2, 512, 32, 1, 1, "none"),
    ("gpt", 24, 64, 4, 1024, 64, 4, 4, "none"),
    ("gpt", 4, 64, 8, 1024, 128, 8, 8, "none"),
    ("gpt", 2, 64, 4, 4096, 64, 16, 16, "none"),
    ("gpt", 4, 256, 4, 1024, 64, 4, 4, "none"),
    ("gpt", 8, 64, 4, 1024, 128, 8, 4, "full"),
    ("bert", 24, 64, 4, 1024, 32, 16, 16, "none"),
    ("bert", 6, 64, 4, 1024, 128, 8, 8, "none"),
    ("bert", 2, 256, 8, 4096, 128, 4, 4, "none"),
    ("bert", 8, 64, 4, 1024, 64, 8, 2, "full"),
    ("encdec", 4, 64, 4, 1024, 128, 8, 8, "none"),
    ("encdec", 16, 64, 4, 1024, 64, 8, 8, "none"),
    ("encdec", 2, 256, 4, 1024, 64, 8, 8, "none"),
    ("encdec", 8, 128, 8, 1024, 32, 2, 1, "full"),
)


@dataclass(frozen=True)
class Calibration:
    """Seconds per unit of each kind of work on this machine's processor."""

    rates: tuple[float, ...]
    peak_flops: float  # of large float32 matrix products
    threads: int
    measured_at: str
    fit_error: float  # median relative error over the calibration's own shapes

    def step_time(self, config: RunConfig, num_ranks: int = 1) -> StepTime:
        """Predict the seconds of one optimizer step; the ranks share the cores, so their work adds up."""
        compute, activations, optimizer, passes, step = (
            amount * rate for amount, rate in zip(_amounts(config, num_ranks), self.rates, strict=True)
        )
        return StepTime(compute, activations + optimizer, 0.0, passes + step)

    def save(self, path: Path) -> None:
        """Write the file, replacing an older one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Calibration | None":
        """Read the file; None if this machine was never calibrated.

        Raises:
            DamagedError: the file is not a calibration.
        """
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            matmul, activations, optimizer, passes, step = map(float, stored["rates"])
            return cls(**{**stored, "rates": (matmul, activations, optimizer, passes, step)})
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path}: not a calibration; `fpm plan --calibrate` writes one") from error


def calibration_configs() -> Iterator[RunConfig]:
    """The configurations whose steps are timed."""
    for family, layers, hidden, heads, vocabulary, length, batch, micro_batch, recompute in SHAPES:
        values = {
            "model.num_layers": layers,
            "model.hidden_size": hidden,
            "model.num_heads": heads,
            "model.head_size": hidden // heads,
            "model.ffn_size": 4 * hidden,
            "model.vocab_size": vocabulary,
            "model.max_positions": 0 if family == "encdec" else length,
            "train.sequence_length": length,
            "train.decoder_length": length // 2 if family == "encdec" else 0,
            "train.global_batch": batch,
            "train.micro_batch": micro_batch,
            "engine.recompute": recompute,
        }
        assignments = [f"{key}={value}" for key, value in values.items()]
        yield resolve(PRESET[family], proxy=True, environment={}, assignments=assignments).config


def calibrate(
    measure: Callable[[RunConfig], float], *, peak_flops: float, threads: int, measured_at: str
) -> Calibration:
    """Fit the rates of this machine.

    Args:
        measure: returns the seconds of one optimizer step of a configuration.
        peak_flops: measured FLOP/s of large float32 matrix products.
        threads: number of CPU threads that the measurement used.
        measured_at: date and time, as text.
    """
    configs = list(calibration_configs())
    seconds = [measure(config) for config in configs]
    rates = fit_rates([_amounts(config, 1) for config in configs], seconds)
    fitted = Calibration(tuple(rates), peak_flops, threads, measured_at, 0.0)
    errors = sorted(
        abs(fitted.step_time(config).seconds / time - 1)
        for config, time in zip(configs, seconds, strict=True)
    )
    return replace(fitted, fit_error=errors[len(errors) // 2])


def _amounts(config: RunConfig, num_ranks: int) -> tuple[float, ...]:
    work = step_work(config, "fp32", num_ranks, cpu=True)
    return tuple(
        num_ranks * amount
        for amount in (
            work.matmul_flops + work.attention_flops + work.head_flops,
            work.activation_bytes + LOSS_PASSES * work.head_bytes,
            work.optimizer_parameters,
            work.layer_passes * OPERATORS[config.family],
            1.0,
        )
    )
