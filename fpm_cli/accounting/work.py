"""The work of one device in a training step, from the structure: amounts to which time is proportional."""

from dataclasses import dataclass
from typing import NamedTuple

from fpm_cli.accounting.activations import SavedActivations
from fpm_cli.accounting.flops import forward_flops, mlp_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.sharding import ELEMENT_BYTES
from fpm_cli.config.batch_split import BatchSplit, split_batch
from fpm_cli.config.schema import Precision, RunConfig


@dataclass(frozen=True)
class Work:
    """One device's share of a step, recomputation included."""

    matmul_flops: float  # projections and MLP
    attention_flops: float
    head_flops: float
    activation_bytes: float  # to which the traffic of element-wise operators in the layers is proportional
    head_bytes: float  # the same for embedding, loss and heads
    layer_passes: float  # each launches the same number of operators
    optimizer_parameters: float  # that this device updates
    sent_bytes: float  # to other devices, by ring collectives
    host_bytes: float  # between device and host memory, where something is offloaded


def step_work(config: RunConfig, precision: Precision, num_devices: int, *, cpu: bool = False) -> Work:
    """The work of one device in one optimizer step."""
    split = split_batch(config.train, num_devices)
    forward = forward_flops(config)
    sequences = split.sequences_per_rank
    saved = SavedActivations(config, ELEMENT_BYTES[precision], split.micro_batch, cpu)
    recomputed = _recomputed_shares(config, saved)  # a step costs three forward passes and what is recomputed
    num_shards = num_devices if config.engine.zero_stage else 1
    return Work(
        matmul_flops=(3 + recomputed.projections) * sequences * forward.projections,
        attention_flops=(3 + recomputed.attention) * sequences * forward.attention,
        head_flops=3 * sequences * forward.heads,
        activation_bytes=(1 + recomputed.saved / 3) * split.num_micro_batches * sum(saved.layers()),
        head_bytes=split.num_micro_batches * saved.outside(),
        layer_passes=(1 + recomputed.saved / 3) * split.num_micro_batches * config.model.num_layers,
        optimizer_parameters=count_parameters(config) / num_shards,
        sent_bytes=_sent_bytes(config, precision, split),
        host_bytes=0.0 if cpu else _host_bytes(config, precision, split),
    )


class _Shares(NamedTuple):
    """The shares of the layers' forward pass that recomputation repeats, 0 to 1."""

    projections: float
    attention: float
    saved: float  # of the saved bytes, which also stand for the operators that save nothing


def _recomputed_shares(config: RunConfig, saved: SavedActivations) -> _Shares:
    if config.engine.recompute != "selective":
        all_or_nothing = float(config.engine.recompute == "full")
        return _Shares(all_or_nothing, all_or_nothing, all_or_nothing)
    of_projections = mlp_flops(config) / forward_flops(config).projections
    return _Shares(of_projections, 0.0, sum(saved.mlps()) / sum(saved.layers()))


def _sent_bytes(config: RunConfig, precision: Precision, split: BatchSplit) -> float:
    """Ring collectives move (n-1)/n of the parameters per reduce-scatter or all-gather, all-reduce twice.

    Gradients are reduced once per step, under ZeRO 2 and 3 in every pass; DeepSpeed's ZeRO 1 and 2
    all-reduce them by default. Under ZeRO 1 and 2 parameters are gathered once per step, under ZeRO 3 twice
    per pass (forward, and backward with its recomputation).
    """
    if split.num_ranks == 1:
        return 0.0
    once = count_parameters(config) * ELEMENT_BYTES[precision] * (split.num_ranks - 1) / split.num_ranks
    passes = split.num_micro_batches
    return once * {0: 2, 1: 2 + 1, 2: 2 * passes + 1, 3: passes + 2 * passes}[config.engine.zero_stage]


def _host_bytes(config: RunConfig, precision: Precision, split: BatchSplit) -> float:
    """Gradients and parameters cross once per step, offloaded parameters also twice per pass."""
    shard = count_parameters(config) * ELEMENT_BYTES[precision] / split.num_ranks
    trips = {"none": 0, "optimizer": 2, "parameters": 2 + 2 * split.num_micro_batches}[config.engine.offload]
    return shard * trips
