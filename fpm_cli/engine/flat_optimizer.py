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
    """A flat parameter and the model's parameters, which from now on are views of it."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.offsets = [0, *accumulate(parameter.numel() for parameter in parameters)]
        self.flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        self.flat.grad = torch.zeros_like(self.flat)
        for parameter, view in zip(parameters, self._views(self.flat.detach()), strict=True):
            parameter.data = view
        self._gradient_views = self._views(self.flat.grad)

    def _views(self, flat: Tensor) -> list[Tensor]:
        pieces = (flat[start:end] for start, end in pairwise(self.offsets))
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters, strict=True)]

    def gather_gradients(self) -> Tensor:
        """Copy the parameters' gradients into the flat one, zeros where a parameter has none."""
        assert self.flat.grad is not None
        gradients = [parameter.grad for parameter in self.parameters]
        if any(gradient is None for gradient in gradients):
            self.flat.grad.zero_()
        pairs = zip(self._gradient_views, gradients, strict=True)
        present = [(view, gradient) for view, gradient in pairs if gradient is not None]
        torch._foreach_copy_([view for view, _ in present], [gradient for _, gradient in present])
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
        if self.clip_norm and norm > self.clip_norm:
            torch._foreach_mul_(gradients, self.clip_norm / (norm + CLIP_EPSILON))
        return norm
