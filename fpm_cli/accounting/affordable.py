"""What given devices can train in given hours: which presets, for how long, and how deep."""

from dataclasses import dataclass
from typing import Any

from fpm_cli.accounting.devices import Device
from fpm_cli.accounting.fitting import FittingConfig, fastest_fitting
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.batch_split import usable_ranks
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError

# Hoffmann et al. 2022 (arXiv:2203.15556): about as many tokens per parameter train a model of given
# compute best.
TOKENS_PER_PARAMETER = 20
MAX_DEPTH = 256


@dataclass(frozen=True)
class Affordable:
    """What a budget buys of one preset, at its own batch."""

    config: RunConfig
    fitting: FittingConfig | None  # None: it does not fit at all
    num_devices: int  # of those given, as many as the global batch divides over
    steps: int
    tokens: int

    @property
    def share_of_schedule(self) -> float:
        """Affordable steps over the preset's steps."""
        return self.steps / self.config.train.steps

    @property
    def tokens_per_parameter(self) -> float:
        """Twenty is about the best use of the compute (Hoffmann et al. 2022)."""
        return self.tokens / count_parameters(self.config)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.config.name,
            "num_layers": self.config.model.num_layers,
            "exact_params": count_parameters(self.config),
            "num_devices": self.num_devices,
            "fits": self.fitting is not None,
            "settings": self.fitting.settings if self.fitting else None,
            "predicted_seconds_per_step": self.fitting.plan.predicted_seconds_per_step
            if self.fitting
            else None,
            "memory_per_device_bytes": self.fitting.plan.memory.document() if self.fitting else None,
            "host_bytes": self.fitting.plan.host.total if self.fitting else None,
            "steps": self.steps,
            "tokens": self.tokens,
            "share_of_schedule": self.share_of_schedule,
            "tokens_per_parameter": self.tokens_per_parameter,
        }


def affordable(config: RunConfig, device: Device, num_devices: int, hours: float) -> Affordable:
    """How many steps and tokens of a preset fit into `hours` of the given devices.

    Raises:
        UsageError: not above 0 hours, or a device whose speed is not known.
    """
    if hours <= 0:
        raise UsageError(f"a budget of {hours:g} hours: more than 0 is needed")
    if not device.peak_flops:
        raise UsageError(f"device {device.name}: a budget needs one whose peak is known, such as A100-80")
    usable = usable_ranks(config.train, num_devices)
    fitting = fastest_fitting(config, device, usable)
    if fitting is None or fitting.plan.predicted_seconds_per_step is None:
        return Affordable(config, fitting, usable, 0, 0)
    steps = int(hours * 3600 / fitting.plan.predicted_seconds_per_step)
    return Affordable(config, fitting, usable, steps, steps * fitting.plan.tokens_per_step)


def best_depth(config: RunConfig, device: Device, num_devices: int, hours: float) -> Affordable | None:
    """The deepest network of the preset's width that the budget trains on 20 tokens per parameter.

    Depth changes, width and batch do not; found by bisection, since both time and need grow with it.
    """
    low, high = 0, MAX_DEPTH // 2  # pairs of layers, so that both stacks stay equally deep
    best: Affordable | None = None
    while low < high:
        middle = (low + high + 1) // 2
        model = config.model.model_copy(update={"num_layers": 2 * middle})
        tried = affordable(config.model_copy(update={"model": model}), device, num_devices, hours)
        if tried.tokens_per_parameter >= TOKENS_PER_PARAMETER:
            low, best = middle, tried
        else:
            high = middle - 1
    return best
