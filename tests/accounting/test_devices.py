import pytest

from fpm_cli.accounting.devices import device_names, find_device, identify, resolve_precision
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import UsageError

EXPECTED = {
    "A100-40",
    "A100-80",
    "H100",
    "H200",
    "B200",
    "RTX-3090",
    "RTX-4090",
    "V100",
    "L40S",
    "MI300X",
    "cpu",
}


def test_every_device_has_memory_peaks_and_a_source():
    assert set(device_names()) == EXPECTED
    for name in EXPECTED - {"cpu"}:
        device = find_device(name)
        assert device.source
        assert device.memory_bytes >= 24e9
        assert max(device.peak_flops.values()) < 1e16
        assert device.peak_flops["fp16"] > device.peak_flops["fp32"]
        assert device.bandwidth and device.link_bandwidth and device.watts


def test_table4s_peak_is_the_a100s():
    assert find_device("a100-40").peak("bf16") == 312e12


@pytest.mark.parametrize(("wrong", "right"), [("A100-45", "A100-40"), ("h10", "H100"), ("MI300", "MI300X")])
def test_a_wrong_name_is_refused_with_the_nearest(wrong, right):
    with pytest.raises(UsageError, match=right):
        find_device(wrong)


def test_this_machine_has_memory_but_no_guessed_peak():
    cpu = find_device("cpu")
    assert cpu.is_cpu
    assert cpu.memory_bytes > 0
    assert cpu.peak("fp32") is None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 3090", "RTX-3090"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_drivers_name_is_recognised(driver, name):
    assert identify(driver).name == name


def test_an_unknown_drivers_name_is_not_guessed():
    assert identify("AMD EPYC") is None


def test_auto_precision_follows_the_device():
    config = resolve("CPM-X-S", environment={}).config
    assert resolve_precision(config, find_device("H100")) == "bf16"
    assert resolve_precision(config, find_device("V100")) == "fp32"
    assert resolve_precision(config, find_device("cpu")) == "fp32"
