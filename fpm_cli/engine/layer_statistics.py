"""Per layer, the norm of the gradient and the RMS of the output: where in a deep network learning fades.

Logged every `train.log_every` steps if `train.layer_statistics` is on. Such a step costs one pass over
each layer's output and, under ZeRO 1 to 3 on several processes, one more exchange of the layers'
gradients, since each process holds only a part of them; other steps cost nothing.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import TrainConfig
from fpm_cli.engine.world import World
from fpm_cli.models.blocks import Stack

LayerValues = Mapping[str, Mapping[str, float]]  # statistic -> layer (`decoder.0`) -> value


class LayerStatistics:
    """Of one optimizer step at a time: `observing` around its passes, `read_gradients` before its update."""

    def __init__(self, model: nn.Module, world: World, train: TrainConfig):
        self.world, self.train = world, train
        self.layers = layers_by_name(model)
        self._squares: dict[str, list[Tensor]] = {}
        self._elements: dict[str, int] = {}
        self._gradient_norms: dict[str, float] = {}

    def if_due(self, step: int) -> "LayerStatistics | None":
        """Itself where optimizer step `step` (counted from 1) is to be observed."""
        due = step % self.train.log_every == 0 or step in (1, self.train.steps)
        return self if self.train.layer_statistics and due else None

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Take each layer output's squares; a recomputed one counts twice, which changes no mean."""
        self._squares = {name: [] for name in self.layers}
        self._elements = dict.fromkeys(self.layers, 0)
        hooks = [
            layer.register_forward_hook(
                lambda _module, _inputs, output, name=name: self._observe(name, output.detach())
            )
            for name, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _observe(self, name: str, output: Tensor) -> None:
        self._squares[name].append(output.float().square().sum())
        self._elements[name] += output.numel()  # micro-batches without their padding differ in size

    def read_gradients(self, scale: float) -> None:
        """Each layer's gradient norm over the global batch, before clipping; every rank calls this.

        Args:
            scale: what gradients are multiplied by against underflow (fp16), else 1.
        """
        from deepspeed.utils import safe_get_full_grad

        for name, layer in self.layers.items():
            gradients = (safe_get_full_grad(parameter) for parameter in layer.parameters())
            squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
            self._gradient_norms[name] = math.sqrt(float(torch.stack(squares).sum())) / scale

    def values(self) -> LayerValues:
        """`gradient_norm` and `activation_rms`, each by layer (`decoder.0`), over all ranks; all call this.

        The root mean square is over every element of the layer's output: of BERT without the padding, of the
        encoder-decoder with it.
        """
        squares = self.world.sum([float(torch.stack(each).sum()) for each in self._squares.values()])
        elements = self.world.sum([float(number) for number in self._elements.values()])
        rms = {
            name: math.sqrt(square / number)
            for name, square, number in zip(self._squares, squares, elements, strict=True)
        }
        return {"gradient_norm": dict(self._gradient_norms), "activation_rms": rms}


def layers_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of every stack in the model, wherever it is: `decoder.0`, or `network.encoder.0`."""
    return {
        f"{name}.{index}": layer
        for name, stack in model.named_modules()
        if isinstance(stack, Stack)
        for index, layer in enumerate(stack.layers)
    }
