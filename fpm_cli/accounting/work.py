"""What one device does in a training step, from the structure: the amounts that time is proportional to."""

from dataclasses import dataclass
from typing import NamedTuple

from fpm_cli.accounting.activations import Saved
from fpm_cli.accounting.devices import Precision
from fpm_cli.accounting.flops import forward_flops, mlp_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.sharding import ELEMENT_BYTES
from fpm_cli.config.schema import RunConfig


@dataclass(frozen=True)
class Layout:
    """How a global batch is spread: devices in use, sequences a forward pass, passes a step."""

    devices: int
    micro_batch: int
    passes: int


@dataclass(frozen=True)
class Work:
    """One device's share of a step, recomputation included."""

    matmul_flops: float  # projections and MLP
    attention_flops: float
    head_flops: float
    activation_bytes: float  # what element-wise operators in the layers read and write goes with it
    head_bytes: float  # the same for embedding, loss and heads
    layer_passes: float  # each launches the same few dozen operators
    optimizer_parameters: float  # that this device updates
    sent_bytes: float  # to other devices, by ring collectives
    host_bytes: float  # between device and host memory, where something is offloaded


def layout(config: RunConfig, num_devices: int) -> Layout:
    """Spread `train.global_batch` evenly; devices beyond its largest divisor stay idle.

    Gradient accumulation makes up for what `train.micro_batch` leaves: passes a step =
    global_batch / (micro_batch * devices), the micro-batch being the largest that divides.
    """
    batch = config.train.global_batch
    devices = _largest_divisor(batch, num_devices)
    micro_batch = _largest_divisor(batch // devices, config.train.micro_batch)
    return Layout(devices, micro_batch, batch // devices // micro_batch)


def step_work(config: RunConfig, precision: Precision, num_devices: int, *, cpu: bool = False) -> Work:
    """The work of one device in one optimizer step."""
    spread = layout(config, num_devices)
    forward = forward_flops(config)
    sequences = spread.micro_batch * spread.passes
    saved = Saved(config, ELEMENT_BYTES[precision], spread.micro_batch, cpu)
    again = _recomputed_shares(config, saved)  # a step is three forwards and what is recomputed
    shards = spread.devices if config.engine.zero_stage else 1
    return Work(
        matmul_flops=(3 + again.projections) * sequences * forward.projections,
        attention_flops=(3 + again.attention) * sequences * forward.attention,
        head_flops=3 * sequences * forward.heads,
        activation_bytes=(1 + again.kept / 3) * spread.passes * sum(saved.layers()),
        head_bytes=spread.passes * saved.outside(),
        layer_passes=(1 + again.kept / 3) * spread.passes * config.model.num_layers,
        optimizer_parameters=count_parameters(config) / shards,
        sent_bytes=_sent_bytes(config, precision, spread),
        host_bytes=0.0 if cpu else _host_bytes(config, precision, spread),
    )


class _Shares(NamedTuple):
    """What recomputation repeats of the layers' forward pass, 0 to 1."""

    projections: float
    attention: float
    kept: float  # of what the layers keep; operators too small to save anything go with it


def _recomputed_shares(config: RunConfig, saved: Saved) -> _Shares:
    if config.engine.recompute != "selective":
        all_or_nothing = float(config.engine.recompute == "full")
        return _Shares(all_or_nothing, all_or_nothing, all_or_nothing)
    of_projections = mlp_flops(config) / forward_flops(config).projections
    return _Shares(of_projections, 0.0, sum(saved.mlps()) / sum(saved.layers()))


def _sent_bytes(config: RunConfig, precision: Precision, spread: Layout) -> float:
    """Ring collectives move (n-1)/n of the parameters a reduce-scatter or all-gather.

    Gradients are reduced once a step, for ZeRO 2 and 3 in every pass; parameters are gathered once
    a step, for ZeRO 3 twice a pass (forward, and backward with its recomputation).
    """
    if spread.devices == 1:
        return 0.0
    once = count_parameters(config) * ELEMENT_BYTES[precision] * (spread.devices - 1) / spread.devices
    stage = config.engine.zero_stage
    return once * ((spread.passes if stage >= 2 else 1) + (2 * spread.passes if stage == 3 else 1))


def _host_bytes(config: RunConfig, precision: Precision, spread: Layout) -> float:
    """Offloaded optimizer: gradients down, parameters up, once a step; parameters: up twice a pass too."""
    shard = count_parameters(config) * ELEMENT_BYTES[precision] / spread.devices
    trips = {"none": 0, "optimizer": 2, "parameters": 2 + 2 * spread.passes}[config.engine.offload]
    return shard * trips


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
