import pytest

from fpm_cli.accounting.affordable import affordable, best_depth
from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.fitting import devices_that_fit, fastest_by_count, fastest_fitting
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.plan import fits_here, plan
from fpm_cli.config.batch_split import BatchSplit, split_batch, usable_ranks
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import UsageError


def config_of(name, *assignments, proxy=False):
    return resolve(name, proxy=proxy, environment={}, assignments=assignments).config


def test_the_document_has_the_contracts_keys():
    document = plan(config_of("CPM-X-L"), find_device("A100-40"), 8).document()
    assert {
        "exact_params",
        "tokens_per_step",
        "model_flops_per_step",
        "hardware_flops_per_step",
        "memory_per_device_bytes",
        "fits",
        "predicted_seconds_per_step",
        "command",
    } <= set(document)
    parts = document["memory_per_device_bytes"]
    assert parts["total"] == sum(
        parts[part] for part in ("params", "grads", "optimizer", "activations", "other")
    )
    assert document["tokens_per_step"] == 512 * 1024
    assert document["command"] == "fpm pretrain --preset CPM-X-L"
    assert any("174 published" in line for line in document["assumptions"])


def test_sharding_is_what_makes_ten_billion_parameters_fit():
    a100 = find_device("A100-40")
    assert not plan(config_of("CPM-X-L", "engine.zero_stage=1"), a100, 8).fit.fits
    assert plan(config_of("CPM-X-L", "engine.zero_stage=3"), a100, 8).fit.fits
    assert not plan(config_of("CPM-X-L", "engine.zero_stage=3"), a100, 1).fit.fits


@pytest.mark.parametrize("name", preset_names())
def test_every_stage_keeps_less_state_than_the_one_before(name):
    memories = [
        plan(config_of(name, f"engine.zero_stage={stage}"), find_device("H100"), 64).memory
        for stage in (0, 1, 2, 3)
    ]
    states = [memory.params + memory.grads + memory.optimizer for memory in memories]
    assert states == sorted(states, reverse=True)
    totals = [memory.total for memory in memories[:3]]  # ZeRO 3 gathers weights and joins gradients beside it
    assert totals == sorted(totals, reverse=True)


def test_mixed_precision_takes_sixteen_bytes_a_parameter():
    config = config_of("CPM-X-S", "engine.zero_stage=0")
    memory = plan(config, find_device("A100-40"), 1).memory
    assert memory.params + memory.grads + memory.optimizer == pytest.approx(
        16 * count_parameters(config), rel=1e-3
    )


def test_recomputation_trades_memory_for_flops():
    full, none = (
        plan(config_of("BERT-E-E", f"engine.recompute={how}"), find_device("A100-40"), 8)
        for how in ("full", "none")
    )
    assert full.memory.activations < none.memory.activations / 5
    assert full.model_flops_per_step == none.model_flops_per_step == none.hardware_flops_per_step
    assert full.hardware_flops_per_step > full.model_flops_per_step


def test_a_batch_is_spread_over_devices_and_passes():
    config = config_of("BERT-C", "train.micro_batch=8")  # 1024 sequences
    assert split_batch(config.train, 8) == BatchSplit(8, 8, 16)
    assert split_batch(config.train, 512) == BatchSplit(512, 2, 1)


def test_training_and_planning_refuse_a_batch_that_does_not_divide_and_name_a_number_that_does():
    config = config_of("CPM-X-S")  # 512 sequences
    message = r"global_batch 512 does not divide over 24 processes; 16 would do"
    for planned in (
        lambda: plan(config, find_device("A100-40"), 24),
        lambda: fits_here(config, 16 * 2**30, 24, cpu=True, has_bf16=False),
        lambda: split_batch(config.train, 24),
    ):
        with pytest.raises(UsageError, match=message):
            planned()
    assert affordable(config, find_device("A100-40"), 24, 24).num_devices == 16
    assert usable_ranks(config.train, 4096) == 512


def test_more_devices_are_faster_until_the_batch_runs_out():
    seconds = [
        plan(config_of("CPM-X-S"), find_device("A100-40"), devices).predicted_seconds_per_step
        for devices in (1, 8, 64, 512)
    ]
    assert seconds == sorted(seconds, reverse=True)


def test_an_uncalibrated_cpu_predicts_no_time():
    made = plan(config_of("CPM-X-S", proxy=True), find_device("cpu"), 1)
    assert made.predicted_seconds_per_step is None
    assert made.fit.fits
    assert made.command == "fpm pretrain --preset CPM-X-S --proxy"


def test_what_cannot_be_is_refused():
    config = config_of("CPM-X-S")
    with pytest.raises(UsageError, match="at least 1"):
        plan(config, find_device("A100-40"), 0)
    with pytest.raises(UsageError, match="at least 1"):
        plan(config, find_device("A100-40"), -8)


def test_fits_here_says_needed_and_available():
    fit = fits_here(config_of("CPM-X-L"), 16 * 2**30, 1, cpu=True, has_bf16=False)
    assert not fit.fits
    assert fit.available == 16 * 2**30
    assert fit.needed > 16 * count_parameters(config_of("CPM-X-L"))
    assert fits_here(config_of("CPM-X-L", proxy=True), 16 * 2**30, 1, cpu=True, has_bf16=False).fits


def test_the_fastest_settings_fit_and_offload_comes_last():
    config, a100 = config_of("CPM-X-L", "engine.zero_stage=1"), find_device("A100-40")
    eight, one = fastest_fitting(config, a100, 8), fastest_fitting(config, a100, 1)
    assert eight.plan.fit.fits and one.plan.fit.fits
    assert eight.settings["engine.zero_stage"] == 3
    assert "engine.offload" not in eight.settings
    assert one.settings["engine.offload"] != "none"
    assert one.plan.memory.host >= 16 * count_parameters(config)
    assert "--set engine.zero_stage=3" in eight.flags


def test_a_run_is_planned_for_every_count_that_its_batch_divides_over():
    by_count = fastest_by_count(config_of("CPM-X-S"), find_device("H100"), price_per_device_hour=2.0)
    assert list(by_count) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]  # its batch does not divide over 1,024
    hours = [fitting.plan.hours for fitting in by_count.values()]
    assert hours == sorted(hours, reverse=True)
    assert by_count[8].plan.price == pytest.approx(by_count[8].plan.hours * 8 * 2.0)
    assert by_count[8].plan.kilowatt_hours == pytest.approx(by_count[8].plan.hours * 8 * 0.7)


def test_a_negative_price_is_refused_with_the_likely_one():
    with pytest.raises(UsageError, match=r"did you mean 2\.5"):
        plan(config_of("CPM-X-S"), find_device("H100"), 1, price_per_device_hour=-2.5)


def test_it_is_said_which_devices_a_run_fits_on():
    fitting = devices_that_fit(config_of("CPM-X-L"), 8)
    assert fitting["H200"] and fitting["A100-80"]
    assert not fitting["RTX-3090"]


def test_a_budget_buys_steps_in_proportion_and_no_depth_if_it_is_tiny():
    config, a100 = config_of("CPM-X-S"), find_device("A100-40")
    day, week = affordable(config, a100, 8, 24), affordable(config, a100, 8, 168)
    assert week.steps == pytest.approx(7 * day.steps, rel=1e-3)
    assert day.tokens == day.steps * 512 * 1024
    assert best_depth(config, a100, 1, 0.01) is None
    shallow, deep = (best_depth(config, a100, 64, hours) for hours in (24, 240))
    assert 20 <= deep.tokens_per_parameter < 25
    assert deep.config.model.num_layers > shallow.config.model.num_layers


def test_a_budget_needs_hours_and_a_known_peak():
    with pytest.raises(UsageError, match="more than 0"):
        affordable(config_of("CPM-X-S"), find_device("A100-40"), 8, 0)
    with pytest.raises(UsageError, match="whose peak is known"):
        affordable(config_of("CPM-X-S"), find_device("cpu"), 8, 1)
