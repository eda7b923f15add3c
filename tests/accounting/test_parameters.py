import pytest

from fpm_cli.accounting.parameters import count_parameters, parameter_shapes
from fpm_cli.config.resolve import resolve
from fpm_cli.models.build import build_skeleton

# From the architectures; the last two digits of the paper's table say nothing about these.
EXACT = {
    "BERT-C": 326_597_258,
    "BERT-X-CN-S": 477_751_946,
    "BERT-X-EN-S": 487_380_796,
    "BERT-X-EN-M": 638_535_484,
    "BERT-E-S": 663_727_932,
    "BERT-E-M": 789_690_172,
    "BERT-E-L": 915_652_412,
    "BERT-E-X": 1_041_614_652,
    "BERT-E-E": 1_167_576_892,
    "CPM-X-S": 2_911_779_840,
    "CPM-X-M": 5_114_721_280,
    "CPM-X-L": 10_150_016_000,
    "CPM-X-EVA": 2_911_779_840,
    "EPM-X-S": 2_911_779_840,
    "EPM-X-M": 4_013_250_560,
    "EPM-X-L": 5_114_721_280,
    "EPM-X-X": 6_373_544_960,
    "CPM-2-X-S": 2_933_002_240,
    "CPM-2-X-M": 5_651_034_112,
    "EPM-2-X-S": 2_961_772_544,
}


def test_all_twenty_are_here():
    assert len(EXACT) == 20


@pytest.mark.parametrize("name", EXACT)
def test_the_count_is_exact(name):
    assert count_parameters(resolve(name, environment={}).config) == EXACT[name]


LAYOUTS = [(name, "pre") for name in EXACT] + [
    ("CPM-X-S", "post"),
    ("CPM-X-S", "deepnorm"),
    ("BERT-C", "post"),
    ("BERT-C", "deepnorm"),
    ("CPM-2-X-S", "deepnorm"),
]


@pytest.mark.parametrize(("name", "placement"), LAYOUTS)
def test_names_shapes_and_order_are_the_modules_own(name, placement):
    config = resolve(name, environment={}, assignments=[f"model.norm_placement={placement}"]).config
    built = {key: tuple(value.shape) for key, value in build_skeleton(config).named_parameters()}
    assert list(parameter_shapes(config).items()) == list(built.items())
