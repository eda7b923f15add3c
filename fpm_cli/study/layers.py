"""How much of a network's depth is used, layer by layer.

- *loss without it*: the layer's input is passed on as its output (Gromov et al. 2024, arXiv 2403.17887).
- *block influence*: 1 - cosine between a layer's input and output (Men et al. 2024, "ShortGPT",
  arXiv 2403.03853), averaged over tokens.
- *logit lens*: the loss read off after the layer, through the stack's final norm and the head
  (nostalgebraist 2020; Belrose et al. 2023, arXiv 2303.08112). An encoder's layers of the
  encoder-decoder have none: their output is not in the space of the head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.engine.batches import load_batch
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.models.blocks import Layer, Stack
from fpm_cli.objectives.build import build_samples
from fpm_cli.progress import Report, ignore_report

NEGLIGIBLE_LOSS = 0.01  # nats: a layer whose removal costs less is counted as not used


@dataclass(frozen=True)
class LayerMeasure:
    """One layer; a network's are listed in the order in which it runs them."""

    name: str  # `decoder.0`
    loss_without: float  # nats per prediction
    block_influence: float
    logit_lens_loss: float | None


@dataclass(frozen=True)
class LayerMeasures:
    """All layers of a network, measured on the same samples."""

    loss: float  # of the whole network
    num_samples: int
    layers: tuple[LayerMeasure, ...]

    @property
    def summary(self) -> str:
        """How many layers matter, in a sentence."""
        used = sum(layer.loss_without - self.loss > NEGLIGIBLE_LOSS for layer in self.layers)
        return (
            f"{used} of {len(self.layers)} layers cost more than {NEGLIGIBLE_LOSS} nats when skipped, "
            "one at a time"
        )


def measure_layers(
    trained: TrainedModel, *, max_samples: int = 64, report: Report = ignore_report
) -> LayerMeasures:
    """Measure every layer on the first validation samples of the run's corpus.

    Costs one forward pass for each layer that is skipped, and one for all the rest; `report` is called with
    the layers that are measured.
    """
    samples = build_samples(trained.config, trained.corpus, "validation")
    num_samples = min(max_samples, len(samples))
    size = trained.config.train.micro_batch
    batches = [
        load_batch(samples, range(start, min(start + size, num_samples)), trained.device)
        for start in range(0, num_samples, size)
    ]
    model = trained.model
    with torch.inference_mode():
        loss, influences, lens = _whole_network(model, batches)
        measures, layers = [], list(named_layers(model))
        report(0, len(layers))
        for name, layer in layers:
            with replaced_forward(layer, pass_on):
                without = _mean_loss(model, batches)
            measures.append(LayerMeasure(name, without, influences[name], lens.get(name)))
            report(len(measures), len(layers))
    return LayerMeasures(loss, num_samples, tuple(measures))


def named_layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The layers of every stack, in order, with their names."""
    for stack_name, stack in model.named_modules():
        if isinstance(stack, Stack):
            for index, layer in enumerate(stack.layers):
                assert isinstance(layer, Layer)
                yield f"{stack_name}.{index}", layer


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Let `forward` compute the module's output; it takes what the module's own takes."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the class's own is found again


def pass_on(x: Tensor, *arguments: object) -> Tensor:
    """A skipped layer: its input, unchanged."""
    return x


def plot_layers(measures: LayerMeasures, path: Path) -> None:
    """Draw all three measures over the layers into a PNG or SVG file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        canvas = Figure(figsize=(8, 7), layout="constrained")
        top, middle, bottom = canvas.subplots(3, 1, sharex=True)
        index = range(len(measures.layers))
        top.bar(index, [layer.loss_without - measures.loss for layer in measures.layers], color="#1f5fae")
        top.set_ylabel("loss without it,\nmore nats")
        middle.plot(index, [layer.block_influence for layer in measures.layers], color="#b3541e")
        middle.set_ylabel("block influence")
        lens = [
            (i, layer.logit_lens_loss) for i, layer in enumerate(measures.layers) if layer.logit_lens_loss
        ]
        bottom.plot([i for i, _ in lens], [value for _, value in lens], color="#2f7d4f")
        bottom.axhline(measures.loss, color="#566070", linewidth=0.8)
        bottom.set_ylabel("loss read off\nafter it, nats")
        bottom.set_xlabel("layer")
        canvas.savefig(path, dpi=150)


def _mean_loss(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> float:
    """The loss over tokens: every family's first one."""
    total = count = 0.0
    for batch in batches:
        losses, counts = model(batch), _num_predictions(model, batch)
        name = next(iter(losses))
        total += float(losses[name])
        count += float(counts[name])
    return total / count


def _whole_network(
    model: nn.Module, batches: Sequence[dict[str, Tensor]]
) -> tuple[float, dict[str, float], dict[str, float]]:
    """The loss, each layer's block influence, and the loss read off after each layer."""
    similarity: dict[str, list[Tensor]] = {}
    outputs: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(_record(name, similarity, outputs)) for name, layer in named_layers(model)
    ]
    stacks = {name: stack for name, stack in model.named_modules() if isinstance(stack, Stack)}
    total = count = 0.0
    lens: dict[str, float] = {}
    try:
        for batch in batches:
            losses, counts = model(batch), _num_predictions(model, batch)
            word_loss = next(iter(losses))
            total += float(losses[word_loss])
            count += float(counts[word_loss])
            recorded = dict(outputs)
            for name, hidden in recorded.items():
                stack_name = name.rpartition(".")[0]
                if stack_name == "encoder" and "decoder" in stacks:
                    continue
                stack = stacks[stack_name]
                final = stack.final_norm(hidden)
                with replaced_forward(stack, lambda *arguments, final=final: final):
                    lens[name] = lens.get(name, 0.0) + float(model(batch)[word_loss])
    finally:
        for handle in handles:
            handle.remove()
    influences = {name: 1 - float(torch.cat(values).mean()) for name, values in similarity.items()}
    return total / count, influences, {name: value / count for name, value in lens.items()}


def _record(name: str, similarity: dict[str, list[Tensor]], outputs: dict[str, Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        similarity.setdefault(name, []).append(
            F.cosine_similarity(inputs[0].float(), output.float(), dim=-1).flatten()
        )
        outputs[name] = output

    return hook


def _num_predictions(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    counts: dict[str, Tensor] = model.num_predictions(batch)  # type: ignore[operator]
    return counts
