"""Bytes a device needs for one training step: parameters, gradients, optimizer, activations, the rest."""

from dataclasses import asdict, dataclass

from fpm_cli.accounting.activations import SavedActivations
from fpm_cli.accounting.compiled_activations import CompiledActivations
from fpm_cli.accounting.flops import masked_positions
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.sharding import (
    ELEMENT_BYTES,
    FLOAT32,
    MOMENTS,
    bucket_elements,
    gathered_elements,
    heap_elements,
    num_buckets,
    offload_buffer_elements,
    offloaded_bytes,
    secondary_elements,
    state_bytes,
)
from fpm_cli.accounting.start import start_bytes
from fpm_cli.config.batch_split import BatchSplit
from fpm_cli.config.schema import Precision, RunConfig

# The driver's context, the libraries' code and workspaces, before the first parameter.
CUDA_OVERHEAD = 1_000_000_000
CPU_OVERHEAD = 470_000_000  # resident size of a Python process with torch 2.13 and DeepSpeed 0.19


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one rank: on its device at the peak of a step and before it, and in the machine's memory.

    `start_peak` is the peak until the first step of a new run, `load_peak` that of one that resumes. `host`
    is what offload keeps in host memory, `staged` what the start has there for a moment, and `save_copy` what
    checkpoints are written from behind the next steps: without room for it, a save holds training up.
    """

    params: int
    grads: int
    optimizer: int
    activations: int
    other: int
    start_peak: int
    load_peak: int
    host: int = 0
    staged: int = 0
    save_copy: int = 0

    @property
    def total(self) -> int:
        """Everything that a step needs on the device."""
        return self.params + self.grads + self.optimizer + self.activations + self.other

    @property
    def needed(self) -> int:
        """What has to fit on the device: the step, the start, and loading a checkpoint."""
        return max(self.total, self.start_peak, self.load_peak)

    def document(self) -> dict[str, int]:
        """For `--json`."""
        return {**asdict(self), "total": self.total}


def device_memory(
    config: RunConfig,
    precision: Precision,
    split: BatchSplit,
    *,
    cpu: bool = False,
    compiled: bool = False,
    ranks_per_server: int = 1,
) -> DeviceMemory:
    """The peak of one training step on one device, and of the start before it.

    Args:
        config: the run; `engine` decides sharding, offload and recomputation.
        precision: of parameters and activations.
        split: of the global batch over the devices.
        cpu: whether the device is the machine's processor, where offloaded state is in the same memory.
        compiled: whether layers run as compiled operators, which keep less.
        ranks_per_server: devices of one server, in each of which ZeRO 3 keeps a second copy of the weights.
    """
    e, stage, ranks = ELEMENT_BYTES[precision], config.engine.zero_stage, split.num_ranks
    passes = split.num_micro_batches
    in_fp32 = config.engine.accumulates_in_fp32(precision, passes)
    state = state_bytes(config, precision, ranks, passes=passes)
    kind = CompiledActivations if compiled else SavedActivations
    saved = kind(config, e, split.micro_batch, cpu)
    activations = saved.total() + saved.recomputed()
    gathered = gathered_elements(config, ranks) * e
    gathered += secondary_elements(config, ranks, ranks_per_server) * e
    params, grads, optimizer, step = state.params, state.grads, state.optimizer, state.step
    host = offloaded_bytes(config, precision, ranks, passes)
    buffer = e * offload_buffer_elements(config)
    start = start_bytes(config, precision, ranks, state, cpu=cpu)
    if host:
        # Under ZeRO 1 all gradients stay on the device; the shard's are copied to float32 on the host.
        stays = stage == 1 or (stage == 2 and in_fp32)
        grads, optimizer, step = grads if stays else 0, 0, 0
        host += buffer
        if cpu:
            optimizer, host = host, 0
        elif config.engine.offload == "parameters":
            params, host = 0, host + state.params
    computing = max(
        activations + _logits_workspace(config, split.micro_batch) + gathered,
        e * _embedding_gradients(config, passes),
    )
    backward = _backward_bytes(config, precision, split, grads, activations, computing, cpu=cpu)
    if stage == 3:
        step += _buckets(config, e, cpu=cpu)  # those of ZeRO 1 and 2 are freed before
    elif stage and cpu and ranks > 1:
        step = max(step, state.params)  # gloo gathers new weights in a buffer of its own
    other = buffer + max(backward, step - grads) - activations
    if cpu:
        # what the allocator keeps of freed gradients, and under ZeRO 3 of modules that were whole
        copies = 2 if stage == 3 and ranks > 1 else 1
        other += copies * e * heap_elements(config, e)
    overhead = CPU_OVERHEAD if cpu else CUDA_OVERHEAD
    return DeviceMemory(
        params=params,
        grads=grads,
        optimizer=optimizer,
        activations=activations,
        other=other + overhead,
        start_peak=start.initial + overhead,
        load_peak=start.loaded + overhead,
        host=host,
        staged=start.staged,
        save_copy=_save_copy(config, state.optimizer, split.num_ranks),
    )


def _backward_bytes(
    config: RunConfig,
    precision: Precision,
    split: BatchSplit,
    grads: int,
    activations: int,
    computing: int,
    *,
    cpu: bool,
) -> int:
    """What the backward pass needs beside the sum of gradients `grads`: to compute, and to reduce them."""
    e, stage, total = ELEMENT_BYTES[precision], config.engine.zero_stage, count_parameters(config)
    joined = e * min(bucket_elements(config), total)
    buckets = _buckets(config, e, cpu=cpu)
    by_gloo = joined if cpu and split.num_ranks > 1 else 0  # which reduces a bucket in a buffer of its own
    if stage == 3:
        # Gradients are joined before they are reduced and scattered.
        return computing + buckets + joined + by_gloo // split.num_ranks
    if cpu and stage == 1:
        # The bucket is filled after the pass, with gradients that are freed; then the shard's are copied. The
        # allocator keeps the activations meanwhile.
        return max(computing, activations + max(by_gloo, e * total // split.num_ranks))
    passes = split.num_micro_batches
    if stage == 2 and passes > 1 and not config.engine.accumulates_in_fp32(precision, passes):
        # What a pass reduces before its last bucket is beside the sum of earlier passes.
        buckets += grads * (e * total - joined) // (e * total)
    return buckets + (max(computing, by_gloo) if stage == 2 else computing)


def _buckets(config: RunConfig, e: int, *, cpu: bool) -> int:
    """ZeRO's buffers of gradients: reserved whole on a GPU; on a CPU only what is written to takes memory."""
    elements = num_buckets(config) * bucket_elements(config)
    return e * (min(elements, count_parameters(config)) if cpu else elements)


def _save_copy(config: RunConfig, optimizer: int, devices: int) -> int:
    """Weights and both moments in float32, of which ZeRO 0 has all on every rank and each copies its turn.

    A run that saves at its end alone makes the copy when the last step's activations are gone.
    """
    if not config.engine.async_save or config.train.save_every >= config.train.steps:
        return 0
    if config.engine.zero_stage:
        return optimizer
    return (1 + MOMENTS) * FLOAT32 * count_parameters(config) // devices


def _embedding_gradients(config: RunConfig, passes: int) -> int:
    """Elements of the embedding's gradients at the end of a pass that are not in the sum of all gradients.

    Autograd has those of both of its uses and their sum. The sum is counted with the others, unless ZeRO 0 or
    1 adds it to that of earlier passes.
    """
    copies = 3 if passes > 1 and config.engine.zero_stage < 2 else 2
    return copies * config.model.vocab_size * config.model.hidden_size


def _logits_workspace(config: RunConfig, micro_batch: int) -> int:
    """The loss at the peak of its backward pass, beside the log-probabilities that are saved.

    The gradients of log-probabilities and of logits, both float32: 12 bytes per logit with those saved.
    """
    train = config.train
    positions = train.decoder_length or train.sequence_length
    if config.family == "bert":
        positions = masked_positions(train)
    return micro_batch * positions * config.model.vocab_size * 2 * FLOAT32
