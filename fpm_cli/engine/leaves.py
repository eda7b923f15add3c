"""Where DeepSpeed keeps the training state: the flat tensors that its inner optimizer steps.

DeepSpeed 0.19 has five places, one for each optimizer of `DeepSpeedEngine._configure_optimizer`
(deepspeed/runtime/engine.py); `leaves_of` finds all of them by what they are called there. After new
values were put in, `refresh` brings the weights that the model computes with up to date.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.checkpoints.shards import Shard, Stretch
from fpm_cli.errors import UsageError


@dataclass(frozen=True)
class Leaf:
    """One tensor of the inner optimizer and the stretches of parameters in it (padding is in none)."""

    name: str
    master: Tensor
    stretches: tuple[Stretch, ...]
    replicated: bool  # every rank has the same


def leaves_of(model: nn.Module, optimizer: Any, rank: int) -> list[Leaf]:
    """Every leaf that this rank steps.

    Args:
        model: the module under the engine.
        optimizer: the engine's `optimizer`, whichever class it is.
        rank: of this process.

    Raises:
        UsageError: the state is on NVMe, where only DeepSpeed reaches it.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(_zero_3(optimizer, names))
    for partitions, groups in (
        ("single_partition_of_fp32_groups", "bit16_groups"),  # ZeRO 1 and 2
        ("fp32_groups_flat_partition", "bf16_groups"),  # ZeRO 1 that accumulates bf16 gradients in fp32
    ):
        if hasattr(optimizer, partitions):
            pairs = zip(getattr(optimizer, partitions), getattr(optimizer, groups), strict=True)
            return [_partition(number, flat, group, names) for number, (flat, group) in enumerate(pairs)]
    if hasattr(optimizer, "fp32_groups"):  # ZeRO 0 in bf16
        both = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        pairs_ = [pair for group in both for pair in zip(*group, strict=True)]
    else:  # ZeRO 0 in fp32: torch's own optimizer
        pairs_ = [(p, p) for group in optimizer.param_groups for p in group["params"]]
    return [_whole(names[id(parameter)], master) for parameter, master in pairs_]


def _whole(name: str, master: Tensor) -> Leaf:
    stretch = Stretch(leaf=name, start=0, name=name, offset=0, length=master.numel())
    return Leaf(name, master, (stretch,), replicated=True)


def _partition(number: int, flat: Tensor, group: list[Any], names: dict[int, str]) -> Leaf:
    """`_hp_mapping` (deepspeed/utils/tensor_fragment.py) says which part of a parameter is in `flat`."""
    leaf = f"group-{number}"
    stretches = []
    for parameter in group:
        if (mapping := parameter._hp_mapping) is not None:
            stretches.append(
                Stretch(
                    leaf=leaf,
                    start=mapping.hp_fragment_address.start,
                    name=names[id(parameter)],
                    offset=mapping.lp_fragment_address.start,
                    length=mapping.lp_fragment_address.numel,
                )
            )
    return Leaf(leaf, flat, tuple(stretches), replicated=False)


def _zero_3(optimizer: Any, names: dict[int, str]) -> Iterator[Leaf]:
    """Each parameter is cut into equal parts, the last one padded; a rank's parts lie end to end."""
    if optimizer.swap_optimizer:
        raise UsageError("engine.deepspeed: the optimizer's state is on NVMe; fpm saves it from RAM or GPUs")
    for number, (flat, group) in enumerate(
        zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True)
    ):
        leaf, stretches = f"group-{number}", []
        for parameter in group:
            _, start, part = optimizer.grad_position[optimizer.get_param_id(parameter)]
            offset = optimizer._get_param_partition_rank(parameter) * part
            if (length := min(part, parameter.ds_numel - offset)) > 0:
                name = names[id(parameter)]
                stretches.append(Stretch(leaf=leaf, start=start, name=name, offset=offset, length=length))
        yield Leaf(leaf, flat, tuple(stretches), replicated=False)


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every parameter's whole shape, partitioned or not."""
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in model.named_parameters()}


def inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that steps the leaves."""
    found: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return found


def shard_of(leaves: list[Leaf], optimizer: Any, rank: int, world_size: int) -> Shard:
    """What this rank writes: its partitions, or its turn of the leaves that all ranks have."""
    states = inner(optimizer).state
    ours = [
        leaf
        for number, leaf in enumerate(leaves)
        if leaf.stretches and (not leaf.replicated or number % world_size == rank)
    ]
    moments = {
        f"{key}/{leaf.name}": value.detach().reshape(-1)
        for leaf in ours
        for key, value in states.get(leaf.master, {}).items()
        if torch.is_tensor(value) and value.shape == leaf.master.shape
    }
    stretches = tuple(stretch for leaf in ours for stretch in leaf.stretches)
    return Shard({leaf.name: leaf.master.detach().reshape(-1) for leaf in ours}, moments, stretches)


def optimizer_step(leaves: list[Leaf], optimizer: Any) -> float:
    """How many steps the inner optimizer has taken, which its bias correction follows."""
    states = inner(optimizer).state
    return max((float(states.get(leaf.master, {}).get("step", 0)) for leaf in leaves), default=0.0)


def moment(leaf: Leaf, optimizer: Any, key: str) -> Tensor:
    """The flat state `key` of a leaf, made first where the optimizer has not stepped yet."""
    state = inner(optimizer).state[leaf.master]
    if key not in state:
        state[key] = torch.zeros_like(leaf.master, memory_format=torch.preserve_format)
    flat: Tensor = state[key].detach().view(-1)
    return flat


def set_optimizer_step(leaves: list[Leaf], optimizer: Any, step: float) -> None:
    """Let the inner optimizer go on from `step`; DeepSpeed's CPU Adam counts in int, torch's in tensors."""
    for leaf in leaves:
        state = inner(optimizer).state[leaf.master]
        if hasattr(inner(optimizer), "ds_opt_adam"):
            state["step"] = int(step)
        else:
            state["step"] = torch.tensor(step, dtype=torch.float32, device=leaf.master.device)


def loss_scaler_of(optimizer: Any) -> dict[str, float]:
    """The numbers of the fp16 loss scaler; bf16 and fp32 have none that change."""
    scaler = _scaler(optimizer)
    return {k: v for k, v in vars(scaler).items() if isinstance(v, int | float)} if scaler else {}


def set_loss_scaler(optimizer: Any, numbers: dict[str, float]) -> None:
    """Put back what `loss_scaler_of` read."""
    if scaler := _scaler(optimizer):
        for name, value in numbers.items():
            if isinstance(now := getattr(scaler, name, None), int | float):
                setattr(scaler, name, type(now)(value))


def _scaler(optimizer: Any) -> Any:
    return getattr(optimizer, "loss_scaler", None)


@torch.no_grad()
def refresh(optimizer: Any) -> None:
    """Bring the weights that the model computes with up to the leaves, on every rank."""
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
