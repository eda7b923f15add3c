from itertools import product

import pytest

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.fitting import compare_neighbours
from fpm_cli.accounting.plan import plan
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve

A100 = find_device("A100-40")
LEFT_FREE = 0.1


def planned(name, *assignments):
    config = resolve(name, environment={}, assignments=assignments).config
    return plan(config, A100, config.paper.gpus)


def sizes(name):
    for stage, recompute, micro_batch in product(
        (1, 2, 3), ("none", "selective", "full"), (1, 2, 4, 8, 16, 32)
    ):
        yield planned(
            name,
            f"engine.zero_stage={stage}",
            f"engine.recompute={recompute}",
            f"train.micro_batch={micro_batch}",
        )


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_fits_the_papers_gpus_with_a_tenth_to_spare(name):
    assert planned(name).memory.needed <= (1 - LEFT_FREE) * A100.memory_bytes


@pytest.mark.parametrize("name", ["BERT-E-E", "CPM-X-L", "CPM-2-X-S", "EPM-X-X"])
def test_no_other_settings_that_leave_a_tenth_free_are_quicker(name):
    roomy = [made for made in sizes(name) if made.memory.needed <= (1 - LEFT_FREE) * A100.memory_bytes]
    quickest = min(made.predicted_seconds_per_step for made in roomy)
    assert planned(name).predicted_seconds_per_step == pytest.approx(quickest)


def test_the_reasons_name_what_the_neighbours_take():
    config = resolve("CPM-X-L", environment={}).config
    said = compare_neighbours(config, A100, config.paper.gpus)
    assert said[0].startswith("as configured") and "fits" in said[0]
    assert any(line.startswith("with engine.recompute=none") and "does not fit" in line for line in said)


@pytest.mark.parametrize("name", preset_names())
def test_a_proxy_does_not_shard_as_its_preset_does(name):
    engine = resolve(name, proxy=True, environment={}).config.engine
    assert (engine.zero_stage, engine.recompute, engine.offload) == (1, "none", "none")
