"""The start of training, without a whole fp32 network anywhere: allocate, then fill the fp32 masters.

ZeRO 0 allocates every parameter in the type that it computes in. Under ZeRO 1 and 2 DeepSpeed makes them
views of one flat tensor; until then a parameter has its shape and type, but no storage. ZeRO 3 partitions
each module's parameters over the ranks as it is built, so that one module at a time is whole. Then DeepSpeed
makes its fp32 masters, and each rank fills its own share of them, from a checkpoint or with initial values.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.deepspeed import deepspeed_config
from fpm_cli.config.schema import Precision, RunConfig
from fpm_cli.engine.flat_partitions import FlatPartition
from fpm_cli.engine.world import World, has_native_bf16
from fpm_cli.models.initialise import CHUNK, InitialValues

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def allocate_network(build_network: Callable[[], nn.Module], config: RunConfig, world: World) -> nn.Module:
    """A network whose values are undefined, on this rank's device, partitioned under ZeRO 3.

    Args:
        build_network: constructs the modules on the default device.
        config: the run.
        world: from `distributed_world`.
    """
    precision = config.engine.resolve_precision(has_bf16=has_native_bf16(world.device))
    if config.engine.zero_stage == 3:
        import deepspeed

        split = split_batch(config.train, world.size)
        options = deepspeed_config(config.train, config.engine, split, precision, world.local_size)
        with deepspeed.zero.Init(config_dict_or_path=options), _without_default_values():
            return build_network()
    with torch.device("meta"):
        network = build_network().to(TYPES[precision])
    if config.engine.zero_stage:
        network._apply(lambda tensor: _without_storage(tensor, world.device))
        return network
    network.to_empty(device=world.device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # DeepSpeed sends them to all ranks
    return network


@contextmanager
def wrapping_without_values(model: nn.Module) -> Iterator[None]:
    """While DeepSpeed wraps a network of `allocate_network`: under ZeRO 1 and 2 allocate only flat tensors.

    DeepSpeed would send the parameters, which have no storage, to all ranks, and join them into the flat
    tensor, which would take their size once more.
    """
    if not any(map(_has_no_storage, model.parameters())):
        yield
        return
    is_wrapping = True

    def flatten(tensors: list[Tensor]) -> Tensor:
        if is_wrapping and any(map(_has_no_storage, tensors)):  # later they are gradients
            return tensors[0].new_zeros(sum(tensor.numel() for tensor in tensors))
        flat: Tensor = _flatten_dense_tensors(tensors)
        return flat

    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero import stage_1_and_2

    with (
        mock.patch.object(DeepSpeedEngine, "_broadcast_model", lambda self: None),
        mock.patch.object(stage_1_and_2, "_flatten_dense_tensors", flatten),
    ):
        yield
    is_wrapping = False


def _without_storage(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype, device=device).expand(tensor.shape)


def _has_no_storage(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and not any(tensor.stride())


@torch.no_grad()
def fill_masters(partitions: list[FlatPartition], values: InitialValues) -> None:
    """Set this rank's share of the fp32 masters to the initial values; the model's weights follow later."""
    for partition in partitions:
        flat = partition.master.detach().view(-1)
        for part in partition.slices:
            end = part.parameter_offset + part.num_elements
            to_flat = part.partition_offset - part.parameter_offset
            first = part.parameter_offset
            while first < end:
                last = min(end, (first // CHUNK + 1) * CHUNK)
                drawn = values.draw(part.parameter, first, last - first)
                flat[first + to_flat : last + to_flat].copy_(drawn)
                first = last


@contextmanager
def _without_default_values() -> Iterator[None]:
    """Construct torch's modules without the random values that they give themselves, which are replaced."""
    with ExitStack() as stack:
        for kind in (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm):
            stack.enter_context(mock.patch.object(kind, "reset_parameters", lambda self: None))
        yield
