"""CompleteP: activations and their change under training do not depend on depth and width."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.measure import synthetic_batch
from fpm_cli.engine.optimizer import LR_SCALE, parameter_groups
from fpm_cli.errors import UsageError
from fpm_cli.models.build import build_model
from fpm_cli.models.transfer import transfer_scales
from fpm_cli.study.matching import with_depth_and_heads

BASE = ("transfer.base_width=64", "transfer.base_layers=4", "model.residual_init_scaled=false")
DEPTH_BOUND, WIDTH_BOUND = 6.0, 1.5  # largest over smallest RMS of a change of activations
FAMILIES = {"gpt": "CPM-X-S", "bert": "BERT-E-S", "encdec": "CPM-2-X-S"}


def transferred(family: str, depth: int, heads: int, rule: Sequence[str] = BASE) -> RunConfig:
    assignments = [*rule, "train.lr_depth_scaled=false", "model.vocab_size=256", "train.lr=2e-3"]
    config = resolve(FAMILIES[family], proxy=True, environment={}, assignments=assignments).config
    return with_depth_and_heads(config, depth, heads)


def coordinates(config: RunConfig, steps: int) -> tuple[float, float]:
    """RMS of the last layer's output before training, and of its change after `steps` steps."""
    initial, changes = all_coordinates(config, steps)
    return initial, changes[-1]


def all_coordinates(config: RunConfig, steps: int) -> tuple[float, list[float]]:
    """RMS of the last layer's output before training, and of its change after each of `steps` steps."""
    torch.manual_seed(0)
    model = build_model(config)
    groups = parameter_groups(model, config)
    for group in groups:
        group["lr"] = config.train.lr * group[LR_SCALE]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    batch = synthetic_batch(config, 8)
    stack = model.decoder if config.family != "bert" else model.encoder
    outputs: list[torch.Tensor] = []
    stack.layers[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = sum(model(batch).values()) / batch["labels"].numel()
        loss.backward()
        optimizer.step()

    def rms(x: torch.Tensor) -> float:
        return float(x.square().mean().sqrt())

    return rms(outputs[0]), [rms(output - outputs[0]) for output in outputs[1:]]


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_the_change_of_activations_depends_little_on_depth_and_width(family: str) -> None:
    shapes = [(2, 4), (4, 4), (32, 4), (4, 16)]
    initial, change = zip(*(coordinates(transferred(family, *shape), 5) for shape in shapes), strict=True)
    assert initial[3] == pytest.approx(initial[1], rel=0.2)  # four times the width
    assert change[3] == pytest.approx(change[1], rel=0.2)
    assert max(change) / min(change) < 3.5  # sixteen times the depth
    assert max(initial) == initial[0]  # the residual stream does not grow with the depth


@pytest.mark.long
@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_coordinates_over_depths_2_to_128_and_widths_64_to_512(
    family: str, report: Callable[[str], None]
) -> None:
    depths = [all_coordinates(transferred(family, depth, 4), 10) for depth in (2, 4, 16, 64, 128)]
    widths = [all_coordinates(transferred(family, 4, heads), 10) for heads in (4, 8, 16, 32)]
    (by_depth, depth_changes), (by_width, width_changes) = (
        zip(*each, strict=True) for each in (depths, widths)
    )
    depth_spread, width_spread = (
        max(max(step) / min(step) for step in zip(*changes, strict=True))
        for changes in (depth_changes, width_changes)
    )
    report(
        f"CompleteP, {family}: RMS of the change of the last layer's output in steps 1 to 10, largest over "
        f"smallest: {depth_spread:.2f} over 2 to 128 layers, {width_spread:.2f} over widths 64 to 512; "
        f"before training {max(by_depth) / min(by_depth):.2f} and {max(by_width) / min(by_width):.2f}"
    )
    assert depth_spread < DEPTH_BOUND and width_spread < WIDTH_BOUND
    assert max(by_width) / min(by_width) < WIDTH_BOUND
    # Branches of 1/L that are independent before training add up to 1/sqrt(L).
    assert list(by_depth) == sorted(by_depth, reverse=True)


def test_without_the_rule_the_change_grows_with_the_depth() -> None:
    rule = ["model.residual_init_scaled=true"]
    shallow, deep = (coordinates(transferred("gpt", depth, 4, rule), steps=5)[1] for depth in (2, 64))
    assert deep > 5 * shallow


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_base_network_is_left_as_it_is(family: str) -> None:
    config = transferred(family, 4, 4)
    plain = config.model_copy(update={"transfer": None})
    for ours, theirs in zip(build_model(config).parameters(), build_model(plain).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_factors_of_the_table() -> None:
    config = transferred("gpt", 16, 8)  # m_L = 4, m_N = 2
    model = build_model(config)
    assert config.transfer is not None
    scales = transfer_scales(model, config.model, config.transfer)
    layer = model.decoder.layers[3]
    assert set(scales) == set(model.parameters())
    up, down = scales[layer.mlp.branch.up.weight], scales[layer.mlp.branch.down.weight]
    assert (up.init, up.lr, up.weight_decay, up.epsilon) == (1 / math.sqrt(2), 1 / 2, 2, 1 / 8)
    assert (down.init, down.lr, down.weight_decay, down.epsilon) == (1 / math.sqrt(2) / 4, 1 / 8, 8, 1 / 2)
    norm = scales[layer.mlp.norm.weight]
    assert (norm.init, norm.lr, norm.epsilon) == (1, 1, 1 / 8)
    final = scales[model.decoder.final_norm.weight]
    assert (final.init, final.lr) == (1 / 2, 1 / 2)
    assert scales[model.token_embedding.weight].lr == 1


def test_a_branch_multiplier_in_the_weights_trains_as_one_in_the_forward_pass() -> None:
    torch.manual_seed(1)
    inputs, targets = torch.randn(32, 16, dtype=torch.float64), torch.randn(32, 4, dtype=torch.float64)
    start = torch.randn(4, 16, dtype=torch.float64)
    depth, lr, decay, epsilon = 8.0, 1e-2, 0.1, 1e-3

    def train(inside: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(start / depth if inside else start.clone())
        factor = 1.0 if inside else 1 / depth
        settings = (lr / depth, decay * depth, epsilon * depth) if inside else (lr, decay, epsilon)
        optimizer = torch.optim.AdamW([weight], lr=settings[0], weight_decay=settings[1], eps=settings[2])
        for _ in range(20):
            optimizer.zero_grad()
            (inputs @ weight.T * factor - targets).square().sum().backward()
            optimizer.step()
        return weight.detach() if inside else weight.detach() / depth

    assert torch.allclose(train(inside=True), train(inside=False), rtol=1e-10)


def test_a_norm_multiplier_in_the_gain_trains_as_one_in_the_forward_pass() -> None:
    """LayerNorm Scaling: six layers whose norms are scaled in the parameters, and in the forward pass."""
    rule = ("model.norm_scaled=true", "model.residual_init_scaled=false")
    config = transferred("gpt", 6, 4, rule)

    def train(inside: bool) -> list[float]:
        scaled = config.model.model_copy(update={"norm_scaled": inside})
        chosen = config.model_copy(update={"model": scaled})
        model = build_model(chosen).double()
        if not inside:
            for number, layer in enumerate(model.decoder.layers, start=1):
                for norm in (module for module in layer.modules() if isinstance(module, torch.nn.LayerNorm)):
                    norm.register_forward_hook(lambda _, __, output, n=number: output / math.sqrt(n))
        groups = parameter_groups(model, chosen)
        for group in groups:
            group["lr"] = 1e-2 * group[LR_SCALE]
        optimizer, batch, losses = torch.optim.AdamW(groups), synthetic_batch(config, 4), []
        for _ in range(5):
            optimizer.zero_grad()
            loss = sum(model(batch).values())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert train(inside=True) == pytest.approx(train(inside=False), rel=1e-9)


@pytest.mark.parametrize("assignment", ["model.residual_init_scaled=true", "model.norm_placement=deepnorm"])
def test_what_contradicts_layer_norm_scaling_is_refused(assignment: str) -> None:
    assignments = ["model.norm_scaled=true", "model.residual_init_scaled=false", assignment]
    with pytest.raises(UsageError, match="norm_scaled"):
        resolve("CPM-X-S", proxy=True, environment={}, assignments=assignments)


@pytest.mark.parametrize(
    "assignment",
    ["model.norm_placement=deepnorm", "train.lr_depth_scaled=true", "model.residual_init_scaled=true"],
)
def test_what_contradicts_the_transfer_is_refused(assignment: str) -> None:
    assignments = [*BASE, "train.lr_depth_scaled=false", assignment]
    with pytest.raises(UsageError, match="transfer"):
        resolve("CPM-X-S", proxy=True, environment={}, assignments=assignments)
