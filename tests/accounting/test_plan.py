import pytest

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.plan import fits_here, plan
from fpm_cli.accounting.step_time import layout
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
    assert any("40%" in line for line in document["assumptions"])


def test_sharding_is_what_makes_ten_billion_parameters_fit():
    a100 = find_device("A100-40")
    assert not plan(config_of("CPM-X-L"), a100, 8).fit.fits
    assert plan(config_of("CPM-X-L", "engine.zero_stage=3"), a100, 8).fit.fits
    assert not plan(config_of("CPM-X-L", "engine.zero_stage=3"), a100, 1).fit.fits


@pytest.mark.parametrize("name", preset_names())
def test_every_stage_needs_less_than_the_one_before(name):
    totals = [
        plan(config_of(name, f"engine.zero_stage={stage}"), find_device("H100"), 64).memory.total
        for stage in (0, 1, 2, 3)
    ]
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
    config = config_of("BERT-C")  # 1024 sequences, at most 8 a pass
    assert (layout(config, 8).micro_batch, layout(config, 8).passes) == (8, 16)
    assert (layout(config, 512).micro_batch, layout(config, 512).passes) == (2, 1)
    assert layout(config, 4096).devices == 1024


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
    with pytest.raises(UsageError, match="at least one"):
        plan(config, find_device("A100-40"), 0)
    with pytest.raises(UsageError, match="fraction"):
        plan(config, find_device("A100-40"), 1, fraction=0)


def test_fits_here_says_needed_and_available():
    fit = fits_here(config_of("CPM-X-L"), 16 * 2**30, 1, cpu=True, bf16=False)
    assert not fit.fits
    assert fit.available == 16 * 2**30
    assert fit.needed > 16 * count_parameters(config_of("CPM-X-L"))
    assert fits_here(config_of("CPM-X-L", proxy=True), 16 * 2**30, 1, cpu=True, bf16=False).fits
