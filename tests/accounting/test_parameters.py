import pytest

from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.resolve import resolve

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
