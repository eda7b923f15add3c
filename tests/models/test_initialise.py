"""Initial values: their distributions, and that any part of any parameter can be drawn alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.models import initialise
from fpm_cli.models.build import build_model, build_skeleton
from fpm_cli.models.initialise import InitialValues


def wide(name: str, *assignments: str) -> RunConfig:
    small = ("model.num_layers=2", "model.hidden_size=256", "model.ffn_size=512", *assignments)
    return resolve(name, proxy=True, environment={}, assignments=small).config


@pytest.mark.parametrize("name", ["CPM-X-S", "BERT-C", "CPM-2-X-S"])
def test_matrices_are_normal_with_the_configured_spread(name: str) -> None:
    config = wide(name)
    model, residual = build_model(config), config.model.init_std / math.sqrt(2 * 2)
    layer = (model.encoder if config.family == "bert" else model.decoder).layers[0]
    if config.family == "encdec":
        residual = config.model.init_std / math.sqrt(2 * 1)  # a layer in each stack
    for weight, std in (
        (model.token_embedding.weight, config.model.init_std),
        (layer.attention.branch.query_key_value.weight, config.model.init_std),
        (layer.attention.branch.out.weight, residual),
        (layer.mlp.branch.down.weight, residual),
    ):
        values = weight.detach().flatten().numpy() / std
        assert stats.kstest(values[:20_000], "norm").pvalue > 1e-3
        assert values.std() == pytest.approx(1, abs=0.01)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in parameter_name:
            assert (parameter == 1).all()


def test_deepnorm_gives_queries_and_keys_gain_1_and_values_beta() -> None:
    config = wide("CPM-X-S", "model.norm_placement=deepnorm")
    layer = build_model(config).decoder.layers[0]
    query, key, value = layer.attention.branch.query_key_value.weight.detach().chunk(3)
    xavier, beta = math.sqrt(2 / (query.shape[0] + 256)), (8 * 2) ** -0.25
    assert [float(part.std()) for part in (query, key)] == pytest.approx([xavier] * 2, rel=0.05)
    assert float(value.std()) == pytest.approx(beta * xavier, rel=0.05)


def test_parameters_of_the_same_shape_have_different_values() -> None:
    model = build_model(wide("CPM-X-S"))
    first, second = (layer.mlp.branch.up.weight for layer in model.decoder.layers)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.01


def test_the_seed_changes_every_random_value() -> None:
    one, two = (build_model(wide("CPM-X-S", f"train.seed={seed}")) for seed in (1, 2))
    assert not torch.equal(one.token_embedding.weight, two.token_embedding.weight)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_part_equals_that_part_of_the_whole(data: st.DataObject) -> None:
    config = wide("CPM-X-S")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialise, "CHUNK", 1000)  # several chunks in a small parameter
        values = InitialValues(build_skeleton(config), config)
        name = data.draw(st.sampled_from(sorted(values.distributions)))
        total = values.distributions[name].num_elements
        offset = data.draw(st.integers(0, total - 1))
        count = data.draw(st.integers(1, total - offset))
        assert torch.equal(
            values.draw(name, offset, count), values.draw(name, 0, total)[offset : offset + count]
        )
