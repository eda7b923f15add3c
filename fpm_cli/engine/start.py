"""The start of training, without a whole fp32 network anywhere: allocate, then fill the fp32 masters.

ZeRO 0 to 2 allocate every parameter in the type that it computes in; ZeRO 3 partitions each module's
parameters over the ranks as it is built, so that one module at a time is whole. Then DeepSpeed makes its fp32
masters, and each rank fills its own share of them, from a checkpoint or with initial values.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import nn

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
        options = deepspeed_config(config.train, config.engine, split, precision)
        with deepspeed.zero.Init(config_dict_or_path=options), _without_default_values():
            return build_network()
    with torch.device("meta"):
        network = build_network().to(TYPES[precision])
    network = network.to_empty(device=world.device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()  # DeepSpeed sends them to all ranks
    return network


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
