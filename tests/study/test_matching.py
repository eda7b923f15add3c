"""The width solver against brute force, for each family and each quantity that can be held equal."""

import math

import pytest

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError
from fpm_cli.models.build import build_skeleton
from fpm_cli.study.matching import Match, layer_parameters, match_depth, with_depth_and_heads

PRESETS = ("CPM-X-S", "BERT-E-S", "CPM-2-X-S")


def wide_proxy(name: str, depth: int = 12, heads: int = 16) -> RunConfig:
    return with_depth_and_heads(resolve(name, proxy=True, environment={}).config, depth, heads)


def seconds(config: RunConfig) -> float:
    """A stand-in for a calibrated machine: a time per layer and one per FLOP."""
    return 1e-3 * config.model.num_layers + 1e-12 * step_flops(config).model


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("match", ["params", "flops", "time"])
@pytest.mark.parametrize("depth", [2, 6, 24, 48])
def test_solver_finds_what_brute_force_finds(name: str, match: Match, depth: int) -> None:
    reference = wide_proxy(name)
    found = match_depth(reference, depth, match, seconds)
    measure = {
        "params": layer_parameters,
        "flops": lambda config: step_flops(config).model_per_token,
        "time": seconds,
    }[match]
    target = measure(reference)
    widths = {heads: measure(with_depth_and_heads(reference, depth, heads)) for heads in range(1, 65)}
    best = min(widths, key=lambda heads: abs(math.log(widths[heads] / target)))
    assert found.config.model.num_heads == best
    assert found.error == pytest.approx(widths[best] / target - 1)


@pytest.mark.parametrize("name", PRESETS)
def test_layer_parameters_are_those_of_the_modules_without_embeddings_and_heads(name: str) -> None:
    config = wide_proxy(name)
    network = build_skeleton(config)
    stacks = [module for child, module in network.named_children() if child in ("encoder", "decoder")]
    assert layer_parameters(config) == sum(p.numel() for stack in stacks for p in stack.parameters())
    assert layer_parameters(config) < count_parameters(config)


def test_width_match_changes_only_the_depth() -> None:
    reference = wide_proxy("CPM-X-S")
    config = match_depth(reference, 48, "width").config
    assert config.model.model_copy(update={"num_layers": 12}) == reference.model
    assert config.train == reference.train


def test_initial_standard_deviation_follows_the_width() -> None:
    reference = wide_proxy("CPM-X-S")
    config = match_depth(reference, 48, "params").config
    signal = [model.init_std * math.sqrt(model.hidden_size) for model in (reference.model, config.model)]
    assert signal[0] == pytest.approx(signal[1])


def test_a_depth_that_no_width_can_match_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot match the params"):
        match_depth(wide_proxy("CPM-X-S", depth=2, heads=4), 128, "params")


def test_an_odd_depth_of_two_stacks_is_refused() -> None:
    with pytest.raises(UsageError, match="even number"):
        match_depth(wide_proxy("CPM-2-X-S"), 5, "width")
