"""The plan of the start: peaks before the first step, and what all ranks of a host need together."""

from itertools import product

import pytest

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.memory import device_memory
from fpm_cli.accounting.parameters import count_parameters, parameter_shapes
from fpm_cli.accounting.plan import fits_here, plan
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve

A100 = find_device("A100-40")
GB = 10**9


def config_of(name, *assignments, proxy=False):
    return resolve(name, proxy=proxy, environment={}, assignments=assignments).config


def largest_layer(config):
    """Elements of the largest layer."""
    layers = {}
    for name, shape in parameter_shapes(config).items():
        stack, found, rest = name.partition(".layers.")
        if found:
            layer, size = (stack, rest.split(".")[0]), 1
            for length in shape:
                size *= length
            layers[layer] = layers.get(layer, 0) + size
    return max(layers.values())


@pytest.mark.parametrize("name", preset_names())
def test_the_start_of_each_preset_needs_at_most_a_layer_more_than_its_steps(name):
    config = config_of(name)
    memory = plan(config, A100, config.paper.gpus).memory
    layer = 2 * largest_layer(config)
    assert memory.start_peak <= memory.total + layer
    assert memory.load_peak <= memory.total + layer
    assert memory.needed <= A100.memory_bytes


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["CPM-X-L", "BERT-C", "CPM-2-X-M"])
def test_so_it_is_at_every_stage_and_offload_on_one_device_and_on_many(name, stage):
    offloads = ("none", "optimizer", "parameters")[: 1 if stage == 0 else 2 if stage < 3 else 3]
    for offload, ranks, precision, cpu in product(offloads, (1, 8, 64), ("bf16", "fp32"), (False, True)):
        config = config_of(name, f"engine.zero_stage={stage}", f"engine.offload={offload}")
        memory = device_memory(config, precision, split_batch(config.train, ranks), cpu=cpu)
        e = {"bf16": 2, "fp32": 4}[precision]
        above = e * largest_layer(config)
        if offload == "optimizer" and stage < 3:  # DeepSpeed clones a shard before it goes to the host
            above = max(above, e * count_parameters(config) // ranks)
        assert max(memory.start_peak, memory.load_peak) <= memory.total + above, (offload, ranks, precision)


def test_a_network_that_was_built_whole_would_not_fit():
    config = config_of("CPM-X-L")
    memory = plan(config, A100, 8).memory
    assert 4 * count_parameters(config) > A100.memory_bytes > memory.start_peak
    assert memory.start_peak > memory.params  # and the float32 masters are beside them


def test_a_host_has_what_its_own_ranks_offload_and_stage():
    config = config_of("CPM-X-L", "engine.offload=optimizer")
    one, eight, sixteen = (plan(config, A100, ranks).host for ranks in (1, 8, 16))
    assert one.offloaded >= (12 + 4) * count_parameters(config)
    assert eight.offloaded == pytest.approx(one.offloaded, rel=0.01)  # a shard of each
    assert sixteen.offloaded == pytest.approx(one.offloaded / 2, rel=0.01)  # two servers
    assert (one.local_ranks, eight.local_ranks, sixteen.local_ranks) == (1, 8, 8)
    assert eight.staged == pytest.approx(2 * count_parameters(config), rel=0.01)
    assert eight.total == eight.ranks + eight.offloaded + max(eight.staged, eight.save_copies)


def test_offload_under_accumulation_sums_gradients_on_the_host():
    def offloaded(*values):
        return plan(config_of("CPM-X-S", "engine.offload=optimizer", *values), A100, 8).memory.host

    whole, parts = (offloaded("train.micro_batch=64"), offloaded("train.micro_batch=8"))
    assert parts - whole == pytest.approx(2 * count_parameters(config_of("CPM-X-S")) / 8, rel=0.1)


def test_a_run_does_not_fit_where_its_host_is_too_small():
    config = config_of("CPM-X-L", "engine.offload=optimizer")
    given = {"cpu": False, "has_bf16": True, "local_ranks": 8}
    roomy, tight = (fits_here(config, 40 * GB, 8, **given, host_bytes=size * GB) for size in (1000, 100))
    assert roomy.fits and not tight.fits
    assert tight.fits_device and not tight.fits_host
    assert fits_here(config, 40 * GB, 8, **given).fits  # a host that is not known is not judged


def test_without_room_for_the_copy_that_saves_are_written_from_a_run_still_fits():
    config = config_of("CPM-X-L")
    planned = plan(config, A100, 8)
    between = planned.host.needed + 1
    assert planned.host.total > between
    given = {"cpu": False, "has_bf16": True, "local_ranks": 8, "host_bytes": between}
    assert fits_here(config, 40 * GB, 8, **given).fits


def test_ranks_on_a_processor_share_its_memory():
    config = config_of("CPM-X-S", proxy=True)
    planned = plan(config, find_device("cpu"), 4)
    assert planned.host.ranks == 4 * planned.memory.needed
    assert planned.fit.available == planned.device.memory_bytes // 4
