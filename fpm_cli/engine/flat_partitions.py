"""The flat tensors that DeepSpeed's inner optimizer steps, found in each of DeepSpeed's optimizers.

DeepSpeed 0.19 has five kinds, one for each optimizer of `DeepSpeedEngine._configure_optimizer`
(deepspeed/runtime/engine.py); `find_partitions` tells them apart by their attributes. After new values are
loaded, `refresh_model_weights` brings the weights that the model computes with up to date.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.checkpoints.shards import ParameterSlice, Shard
from fpm_cli.engine.flat_optimizer import FlatAdamW, FlatGroup
from fpm_cli.errors import UsageError
from fpm_cli.models.parameters import whole_shape


@dataclass(frozen=True)
class FlatPartition:
    """One tensor of the inner optimizer and the parameter slices in it; padding belongs to none of them."""

    name: str
    master: Tensor  # fp32
    slices: tuple[ParameterSlice, ...]
    replicated: bool  # every rank has the same


def find_partitions(model: nn.Module, optimizer: Any, rank: int) -> list[FlatPartition]:
    """Find every flat partition that this rank steps.

    Args:
        model: the module under the engine.
        optimizer: the engine's `optimizer`, whichever class it is.
        rank: of this process.

    Raises:
        UsageError: the state is on NVMe, where only DeepSpeed reaches it.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(_find_zero_3_partitions(optimizer, names))
    for partitions, groups in (
        ("single_partition_of_fp32_groups", "bit16_groups"),  # ZeRO 1 and 2
        ("fp32_groups_flat_partition", "bf16_groups"),  # ZeRO 1 that accumulates bf16 gradients in fp32
    ):
        if hasattr(optimizer, partitions):
            pairs = zip(getattr(optimizer, partitions), getattr(optimizer, groups), strict=True)
            return [
                _group_partition(number, flat, group, names) for number, (flat, group) in enumerate(pairs)
            ]
    if isinstance(optimizer, FlatAdamW):
        return [
            _flat_group_partition(number, group, names) for number, group in enumerate(optimizer.flat_groups)
        ]
    if hasattr(optimizer, "fp32_groups"):  # ZeRO 0 in bf16
        groups_ = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        masters = [pair for group in groups_ for pair in zip(*group, strict=True)]
    else:  # ZeRO 0 in fp32: torch's own optimizer
        masters = [(p, p) for group in optimizer.param_groups for p in group["params"]]
    return [_whole_parameter(names[id(parameter)], master) for parameter, master in masters]


def _whole_parameter(name: str, master: Tensor) -> FlatPartition:
    return FlatPartition(name, master, (ParameterSlice.whole(name, master.numel()),), replicated=True)


def _flat_group_partition(number: int, group: FlatGroup, names: dict[int, str]) -> FlatPartition:
    partition = f"group-{number}"
    slices = tuple(
        ParameterSlice(
            partition=partition,
            partition_offset=offset,
            parameter=names[id(parameter)],
            parameter_offset=0,
            num_elements=parameter.numel(),
        )
        for parameter, offset in zip(group.parameters, group.offsets[:-1], strict=True)
    )
    return FlatPartition(partition, group.flat, slices, replicated=True)


def _group_partition(number: int, flat: Tensor, group: list[Any], names: dict[int, str]) -> FlatPartition:
    """`_hp_mapping` (deepspeed/utils/tensor_fragment.py) says which part of a parameter is in `flat`."""
    partition = f"group-{number}"
    slices = tuple(
        ParameterSlice(
            partition=partition,
            partition_offset=mapping.hp_fragment_address.start,
            parameter=names[id(parameter)],
            parameter_offset=mapping.lp_fragment_address.start,
            num_elements=mapping.lp_fragment_address.numel,
        )
        for parameter in group
        if (mapping := parameter._hp_mapping) is not None
    )
    return FlatPartition(partition, flat, slices, replicated=False)


def _find_zero_3_partitions(optimizer: Any, names: dict[int, str]) -> Iterator[FlatPartition]:
    """Each parameter is cut into equal parts, the last one padded; a rank's parts lie end to end."""
    if optimizer.swap_optimizer:
        raise UsageError("engine.deepspeed: the optimizer's state is on NVMe; fpm saves it from RAM or GPUs")
    groups = zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True)
    for number, (flat, group) in enumerate(groups):
        partition, slices = f"group-{number}", []
        for parameter in group:
            _, start, part = optimizer.grad_position[optimizer.get_param_id(parameter)]
            offset = optimizer._get_param_partition_rank(parameter) * part
            if (num_elements := min(part, parameter.ds_numel - offset)) > 0:
                slices.append(
                    ParameterSlice(
                        partition=partition,
                        partition_offset=start,
                        parameter=names[id(parameter)],
                        parameter_offset=offset,
                        num_elements=num_elements,
                    )
                )
        yield FlatPartition(partition, flat, tuple(slices), replicated=False)


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's whole shape, whether ZeRO 3 has partitioned it or not."""
    return {name: whole_shape(parameter) for name, parameter in model.named_parameters()}


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that steps the flat partitions."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def build_shard(partitions: list[FlatPartition], optimizer: Any, rank: int, world_size: int) -> Shard:
    """What this rank writes: its own partitions, and its share of those that every rank has."""
    states = inner_optimizer(optimizer).state
    owned = [
        partition
        for number, partition in enumerate(partitions)
        if partition.slices and (not partition.replicated or number % world_size == rank)
    ]
    optimizer_states = {
        f"{key}/{partition.name}": value.detach().reshape(-1)
        for partition in owned
        for key, value in states.get(partition.master, {}).items()
        if torch.is_tensor(value) and value.shape == partition.master.shape
    }
    slices = tuple(part for partition in owned for part in partition.slices)
    weights = {partition.name: partition.master.detach().reshape(-1) for partition in owned}
    return Shard(weights, optimizer_states, slices)


def optimizer_step(partitions: list[FlatPartition], optimizer: Any) -> float:
    """How many steps the inner optimizer has taken, which its bias correction depends on."""
    states = inner_optimizer(optimizer).state
    steps = (float(states.get(partition.master, {}).get("step", 0)) for partition in partitions)
    return max(steps, default=0.0)


def optimizer_state(partition: FlatPartition, optimizer: Any, key: str) -> Tensor:
    """The flat state `key` of a partition, created as zeros where the optimizer has not stepped yet."""
    state = inner_optimizer(optimizer).state[partition.master]
    if key not in state:
        state[key] = torch.zeros_like(partition.master, memory_format=torch.preserve_format)
    flat: Tensor = state[key].detach().view(-1)
    return flat


def forget_optimizer_states(partitions: list[FlatPartition], optimizer: Any) -> None:
    """Let the inner optimizer start anew, as before its first step."""
    for partition in partitions:
        inner_optimizer(optimizer).state[partition.master].clear()


def set_optimizer_step(partitions: list[FlatPartition], optimizer: Any, step: float) -> None:
    """Set the inner optimizer's step count, which DeepSpeed's CPU Adam keeps as an int, torch as a tensor."""
    inner = inner_optimizer(optimizer)
    for partition in partitions:
        state = inner.state[partition.master]
        if hasattr(inner, "ds_opt_adam"):
            state["step"] = int(step)
        else:
            state["step"] = torch.tensor(step, dtype=torch.float32, device=partition.master.device)


def loss_scaler_state(optimizer: Any) -> dict[str, float]:
    """The numbers of the fp16 loss scaler; in bf16 and fp32 there are none that change."""
    scaler = _loss_scaler(optimizer)
    return {k: v for k, v in vars(scaler).items() if isinstance(v, int | float)} if scaler else {}


def set_loss_scaler(optimizer: Any, numbers: dict[str, float]) -> None:
    """Restore what `loss_scaler_state` returned."""
    if scaler := _loss_scaler(optimizer):
        for name, value in numbers.items():
            if isinstance(current := getattr(scaler, name, None), int | float):
                setattr(scaler, name, type(current)(value))


def _loss_scaler(optimizer: Any) -> Any:
    return getattr(optimizer, "loss_scaler", None)


@torch.no_grad()
def refresh_model_weights(optimizer: Any) -> None:
    """Copy the masters into the weights that the model computes with, on every rank."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO 3
        optimizer.checkpoint_event_prologue()  # drops what is gathered
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        optimizer.checkpoint_event_epilogue()  # gathers what is kept whole
    elif hasattr(optimizer, "update_lp_params"):  # ZeRO 1 and 2
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_groups"):
        for masters, parameters in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
            for master, parameter in zip(masters, parameters, strict=True):
                parameter.copy_(master)
