"""The initial value of every parameter: a pure function of the configuration, its seed included.

| parameter                              | start                                              |
|----------------------------------------|----------------------------------------------------|
| embeddings, linear layers              | N(0, init_std)                                     |
| projections into the residual stream   | N(0, init_std / sqrt(2L)), L layers in the stack   |
| biases                                 | 0                                                  |
| norms                                  | weight 1, bias 0                                   |
| under DeepNorm: queries, keys          | Xavier normal, gain 1                              |
| under DeepNorm: values, outputs, MLP   | Xavier normal, gain beta (arXiv 2203.00555)        |
| with `transfer` or `model.norm_scaled` | times the factor in `parameter_scales.py`          |

The first four rows are the references' (Megatron-LM's scaled init; CPM-1, CPM-2). Random numbers come from a
stream for each (seed, parameter name, chunk of CHUNK elements), drawn on the CPU in fp32, so that any process
makes any part of any parameter by itself: a rank fills its own share, and ranks, sharding and devices change
no bit.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig, RunConfig
from fpm_cli.models.attention import Attention, CrossAttention, SelfAttention
from fpm_cli.models.blocks import MLP, Stack
from fpm_cli.models.parameter_scales import parameter_scales

CHUNK = 2**20  # elements: 4 MiB, drawn at a time


@dataclass(frozen=True)
class InitialDistribution:
    """A constant, or zero-mean normal with one standard deviation for each run of elements."""

    num_elements: int
    constant: float = 0.0
    stds: tuple[tuple[int, float], ...] = ()  # (elements, standard deviation), covering all; (): constant

    def scaled(self, factor: float) -> "InitialDistribution":
        """Every value times `factor`."""
        stds = tuple((elements, std * factor) for elements, std in self.stds)
        return replace(self, constant=self.constant * factor, stds=stds)


class InitialValues:
    """Draws the initial values of a network's parameters, whole or in part."""

    def __init__(self, skeleton: nn.Module, config: RunConfig):
        """`skeleton` may be on the `meta` device: only its structure is read."""
        self._seed = config.train.seed
        self.distributions = initial_distributions(skeleton, config)

    def draw(self, name: str, offset: int, num_elements: int) -> Tensor:
        """Elements [offset, offset + num_elements) of a parameter, flat, fp32 on the CPU."""
        distribution = self.distributions[name]
        if not distribution.stds:
            return torch.full((num_elements,), distribution.constant)
        values = torch.empty(num_elements)
        end = offset + num_elements
        for chunk in range(offset // CHUNK, -(-end // CHUNK)):
            first = chunk * CHUNK
            drawn = self._draw_chunk(name, chunk, min(CHUNK, distribution.num_elements - first))
            low, high = max(offset, first), min(end, first + len(drawn))
            values[low - offset : high - offset] = drawn[low - first : high - first]
        _scale_by_run(values, offset, distribution)
        return values

    def fill(self, model: nn.Module) -> None:
        """Set every parameter of a whole network, on any device and in any type."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                flat = parameter.view(-1)
                for first in range(0, flat.numel(), CHUNK):
                    part = flat[first : first + CHUNK]
                    part.copy_(self.draw(name, first, part.numel()))

    def _draw_chunk(self, name: str, chunk: int, num_elements: int) -> Tensor:
        digest = hashlib.blake2b(f"{self._seed}/{name}/{chunk}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return torch.randn(num_elements, generator=generator)


def initial_distributions(model: nn.Module, config: RunConfig) -> dict[str, InitialDistribution]:
    """The distribution of every parameter, by name, from the network's structure."""
    by_parameter: dict[Tensor, InitialDistribution] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            by_parameter[module.weight] = _normal(module.weight, config.model.init_std)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            by_parameter[module.weight] = InitialDistribution(module.weight.numel(), constant=1.0)
    for module in model.modules():
        if isinstance(module, Stack):
            by_parameter |= _branch_distributions(module, config.model)
    scales = parameter_scales(model, config)
    distributions = {}
    for name, parameter in model.named_parameters():
        distribution = by_parameter.get(parameter, InitialDistribution(parameter.numel()))
        factor = scales[parameter].init if parameter in scales else 1.0
        distributions[name] = distribution.scaled(factor)
    return distributions


def _branch_distributions(stack: Stack, config: ModelConfig) -> dict[Tensor, InitialDistribution]:
    """Of the matrices whose start differs inside layers."""
    residual_std = config.init_std
    if config.residual_init_scaled:
        residual_std /= math.sqrt(2 * len(stack.layers))
    deepnorm, beta = config.norm_placement == "deepnorm", stack.layer_config.deepnorm_beta
    found: dict[Tensor, InitialDistribution] = {}
    for branch in stack.modules():
        if isinstance(branch, Attention):
            if deepnorm:
                found |= _deepnorm_attention(branch, beta)
            else:
                found[branch.out.weight] = _normal(branch.out.weight, residual_std)
        elif isinstance(branch, MLP):
            if deepnorm:
                for linear in filter(None, (branch.gate, branch.up, branch.down)):
                    found[linear.weight] = _normal(linear.weight, _xavier_std(linear.weight.shape, beta))
            else:
                found[branch.down.weight] = _normal(branch.down.weight, residual_std)
    return found


def _deepnorm_attention(branch: Attention, beta: float) -> dict[Tensor, InitialDistribution]:
    """Queries and keys with gain 1; values and the output projection with gain beta."""
    distributions = {
        branch.out.weight: _normal(branch.out.weight, _xavier_std(branch.out.weight.shape, beta))
    }
    gains: dict[Tensor, tuple[float, ...]]
    if isinstance(branch, CrossAttention):
        gains = {branch.query.weight: (1.0,), branch.key_value.weight: (1.0, beta)}
    else:
        assert isinstance(branch, SelfAttention)
        gains = {branch.query_key_value.weight: (1.0, 1.0, beta)}
    for weight, gain_of_part in gains.items():
        part = (branch.attention_size, weight.shape[1])
        runs = tuple((math.prod(part), _xavier_std(part, gain)) for gain in gain_of_part)
        distributions[weight] = InitialDistribution(weight.numel(), stds=runs)
    return distributions


def _normal(weight: Tensor, std: float) -> InitialDistribution:
    return InitialDistribution(weight.numel(), stds=((weight.numel(), std),))


def _xavier_std(shape: tuple[int, ...] | torch.Size, gain: float) -> float:
    outputs, inputs = shape
    return gain * math.sqrt(2 / (outputs + inputs))


def _scale_by_run(values: Tensor, offset: int, distribution: InitialDistribution) -> None:
    """Multiply standard normal elements from `offset` on by the standard deviation of their run."""
    first = 0
    for elements, std in distribution.stds:
        low, high = max(first, offset), min(first + elements, offset + len(values))
        if low < high:
            values[low - offset : high - offset] *= std
        first += elements
