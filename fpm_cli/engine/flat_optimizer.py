"""AdamW over one flat tensor per parameter group, with clipping: few operators for many parameters.

A network of 128 layers has 1,540 parameters; clipping and stepping each of them takes longer than the
arithmetic. Here the model's parameters are views of the flat tensors. DeepSpeed does the same under ZeRO 1 to
3; this optimizer is for ZeRO 0 in fp32, where DeepSpeed steps and clips parameter by parameter.
"""

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.optimizer import SkipStepAdamW, parameter_groups

CLIP_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_


class FlatGroup:
    """A flat parameter and the model's parameters, which become views of it."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.offsets = [0, *accumulate(parameter.numel() for parameter in parameters)]
        self.flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        for parameter, (start, end) in zip(parameters, pairwise(self.offsets), strict=True):
            parameter.data = self.flat.detach()[start:end].view(parameter.shape)

    def gather_gradients(self) -> Tensor:
        """Move the parameters' gradients into the flat parameter's; a parameter without one has zeros."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
        self.flat.grad = torch.cat([gradient.flatten() for gradient in gradients])
        for parameter in self.parameters:
            parameter.grad = None
        return self.flat.grad


class FlatAdamW(SkipStepAdamW):
    """`SkipStepAdamW` that also clips; `clip_gradients` comes before each step."""

    def __init__(self, model: nn.Module, config: RunConfig):
        groups, train = parameter_groups(model, config), config.train
        self.flat_groups = [FlatGroup(group["params"]) for group in groups]
        for group, flat_group in zip(groups, self.flat_groups, strict=True):
            group["params"] = [flat_group.flat]
        betas = (train.beta1, train.beta2)
        super().__init__(groups, lr=train.lr, betas=betas, eps=train.adam_epsilon, fused=True)
        self.clip_norm = train.clip_norm

    @torch.no_grad()
    def clip_gradients(self) -> float:
        """Gather the gradients, scale them down to `train.clip_norm`; returns their norm before that."""
        gradients = [group.gather_gradients() for group in self.flat_groups]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if norm > self.clip_norm:
            torch._foreach_mul_(gradients, self.clip_norm / (norm + CLIP_EPSILON))
        return norm

    def end_step(self) -> None:
        """As `SkipStepAdamW`; the gradients are freed."""
        super().end_step()
        for group in self.flat_groups:
            group.flat.grad = None
