"""Seconds of a training step on any device: from published GPU runs, or from this machine's calibration."""

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.accounting.devices import Device
from fpm_cli.accounting.throughput import StepTime, gpu_step_time
from fpm_cli.accounting.work import step_work
from fpm_cli.config.schema import Precision, RunConfig


def step_time(
    config: RunConfig,
    device: Device,
    precision: Precision,
    num_devices: int,
    calibration: Calibration | None = None,
) -> StepTime | None:
    """Predict one optimizer step, or None where the device's speed is not known."""
    if device.is_cpu:
        return calibration.step_time(config, num_devices) if calibration else None
    return gpu_step_time(step_work(config, precision, num_devices), device, precision, num_devices)
