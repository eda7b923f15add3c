"""Bytes a device needs for one training step: parameters, gradients, optimizer, activations, the rest.

ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): stage 1 shards the optimizer's states, stage 2 the
gradients too, stage 3 the parameters too. Mixed precision keeps 2 bytes of parameter and of
gradient and 12 of optimizer (a float32 copy and Adam's two moments) a parameter.
"""

from dataclasses import asdict, dataclass

from fpm_cli.accounting.activations import recomputed_bytes, saved_bytes
from fpm_cli.accounting.devices import Precision
from fpm_cli.accounting.flops import masked_positions
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.schema import RunConfig

FLOAT32 = 4
ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
# The driver's context, the libraries' code and workspaces, before the first parameter.
CUDA_OVERHEAD = 1_000_000_000
CPU_OVERHEAD = 600_000_000


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes at the peak of a step, on one device; `host` is what offload keeps in the machine's memory."""

    params: int
    grads: int
    optimizer: int
    activations: int
    other: int
    host: int = 0

    @property
    def total(self) -> int:
        """Everything that has to fit on the device."""
        return self.params + self.grads + self.optimizer + self.activations + self.other

    def document(self) -> dict[str, int]:
        """For `--json`."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class StateBytes:
    """What a rank holds of the model's state."""

    params: int
    grads: int
    optimizer: int


def state_bytes(config: RunConfig, precision: Precision, num_devices: int) -> StateBytes:
    """Parameters, gradients and optimizer states of one rank under `engine.zero_stage`."""
    parameters, e = count_parameters(config), ELEMENT_BYTES[precision]
    stage = config.engine.zero_stage
    shard = -(-parameters // num_devices)
    # DeepSpeed's ZeRO keeps a float32 master copy also where the parameters are float32 already.
    optimizer_bytes = 2 * FLOAT32 + (FLOAT32 if stage or precision != "fp32" else 0)
    return StateBytes(
        params=e * (shard if stage == 3 else parameters),
        grads=e * (shard if stage >= 2 else parameters),
        optimizer=optimizer_bytes * (shard if stage >= 1 else parameters),
    )


def device_memory(
    config: RunConfig, precision: Precision, num_devices: int, micro_batch: int, *, cpu: bool = False
) -> DeviceMemory:
    """The peak of one training step on one device.

    Args:
        config: the run; `engine` decides sharding, offload and recomputation.
        precision: of parameters and activations.
        num_devices: data-parallel ranks that share the state.
        micro_batch: sequences a device and forward pass.
        cpu: whether the device is the machine's processor.
    """
    state, e = state_bytes(config, precision, num_devices), ELEMENT_BYTES[precision]
    params, optimizer, host = state.params, state.optimizer, 0
    if not cpu and config.engine.offload != "none":
        optimizer, host = 0, state.optimizer
        if config.engine.offload == "parameters":
            params, host = _largest_layer(config) * e, host + state.params
    elif config.engine.zero_stage == 3 and num_devices > 1:
        params += _largest_layer(config) * e  # gathered while it runs
    activations = saved_bytes(config, element_bytes=e, micro_batch=micro_batch) + recomputed_bytes(
        config, element_bytes=e, micro_batch=micro_batch
    )
    return DeviceMemory(
        params=params,
        grads=state.grads,
        optimizer=optimizer,
        activations=activations,
        other=_logits_workspace(config, e, micro_batch) + (CPU_OVERHEAD if cpu else CUDA_OVERHEAD),
        host=host,
    )


def _largest_layer(config: RunConfig) -> int:
    """Parameters that ZeRO 3 gathers at a time, at most: the embedding or a layer."""
    model = config.model
    layers = 18 if config.family == "encdec" else 12
    return max(model.vocab_size * model.hidden_size, layers * model.hidden_size**2)


def _logits_workspace(config: RunConfig, e: int, micro_batch: int) -> int:
    """The loss at its worst moment: gradients of the log-probabilities and of the logits."""
    train = config.train
    positions = train.decoder_length or train.sequence_length
    if config.family == "bert":
        positions = masked_positions(train.sequence_length)
    return micro_batch * positions * config.model.vocab_size * (FLOAT32 + e)
