"""Bytes until the first step: while a rank builds, shards and initialises, and while it loads a checkpoint.

Follows `engine/start.py` and DeepSpeed 0.19 (deepspeed/runtime/zero): what is allocated when, and where.
`benchmarks/true_size.py` compares it with the kernel's figures on a processor.
"""

from dataclasses import dataclass

from fpm_cli.accounting.sharding import (
    ELEMENT_BYTES,
    FLOAT32,
    MOMENTS,
    StateBytes,
    bucket_elements,
    group_elements,
    heap_elements,
    largest_parameter,
    offload_buffer_elements,
)
from fpm_cli.config.schema import Precision, RunConfig


@dataclass(frozen=True)
class StartBytes:
    """Bytes of one rank at two moments, without the process itself."""

    initial: int  # the peak from nothing to initial weights
    loaded: int  # the peak of loading a checkpoint instead
    staged: int = 0  # in host memory, for a moment


def start_bytes(
    config: RunConfig, precision: Precision, num_ranks: int, state: StateBytes, *, cpu: bool
) -> StartBytes:
    """What a rank needs on its device before the first step.

    Args:
        config: the run.
        precision: of parameters.
        num_ranks: data-parallel ranks.
        state: of the model, wherever it is.
        cpu: whether the device is the processor, in whose memory offloaded state is too.
    """
    e, stage, offload = ELEMENT_BYTES[precision], config.engine.zero_stage, config.engine.offload
    shares = group_elements(config, num_ranks)
    if stage == 0:
        return _unsharded(state, precision, max(shares))
    leaves = offload != "none" and not cpu
    masters = 0 if leaves else state.optimizer // (1 + MOMENTS)
    moments = MOMENTS * masters
    buffer = e * offload_buffer_elements(config)
    kept, grads = buffer, 0 if leaves else state.grads  # `kept` is beside the masters from here on
    if offload != "none" and cpu:
        kept, grads = kept + FLOAT32 * sum(shares), e * sum(shares)
        if stage < 3:
            kept += buffer + grads
    if stage < 3:
        # A group's share is cloned before it becomes float32 or leaves the device; then the optimizer gets
        # gradients of zeros for a moment; at the end gloo gathers the weights in a buffer of its own.
        cloned = e * max(shares) if e != FLOAT32 or leaves else 0
        zeros = 0 if leaves or kept else FLOAT32 * sum(shares)
        gathered = e * max(shares) * num_ranks if cpu and num_ranks > 1 else 0
        initial = state.params + masters + kept + max(cloned, zeros, gathered)
        return StartBytes(initial, max(initial, state.params + masters + moments + kept + gathered))
    params = 0 if leaves and offload == "parameters" else state.params
    bucket = 0 if cpu else e * bucket_elements(config)
    zeros = 0 if leaves else FLOAT32 * max(shares)
    # The optimizer has its zeros before the gradients get their buffer. One module at a time is whole; where
    # it is gathered, twice.
    module = e * largest_parameter(config)
    initial = params + max(module, masters + kept + max(zeros, grads + bucket + 2 * module))
    loaded = max(initial, params + masters + moments + kept + grads + bucket)
    staged = 0 if cpu or offload == "parameters" else e * sum(shares)
    # Between the shards the allocator keeps where modules were whole.
    holes = e * heap_elements(config, e) // num_ranks if cpu else 0
    return StartBytes(initial + holes, loaded + holes, staged)


def _unsharded(state: StateBytes, precision: Precision, largest_group: int) -> StartBytes:
    """ZeRO 0: in fp32 the flat optimizer joins one group at a time; else DeepSpeed steps with zeros once."""
    if precision == "fp32":
        joined = state.params + FLOAT32 * largest_group
        return StartBytes(joined, max(joined, state.params + state.optimizer))
    stepped = state.params + state.optimizer + state.step
    return StartBytes(stepped, stepped)
