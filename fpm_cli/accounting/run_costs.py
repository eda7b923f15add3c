"""What a run cost, from its folder: Table 4's row for that run, predicted beside measured.

Device-seconds are charged from every launch, so lost and replayed steps cost what they cost; useful
work counts each step once.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.accounting.devices import CPU, Device, identify, resolve_precision, this_machine
from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.step_time import step_time
from fpm_cli.config.batch_split import usable_ranks
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError
from fpm_cli.runs.manifest import MANIFEST, Launch
from fpm_cli.runs.metrics import Row, read_rows
from fpm_cli.runs.run import Run


@dataclass(frozen=True)
class RunRecord:
    """A run folder as accounting reads it."""

    folder: Path
    config: RunConfig
    launches: tuple[Launch, ...]
    train_rows: tuple[Row, ...]  # metrics.jsonl, `"kind": "train"`
    price_per_device_hour: float | None = None  # as `fpm pretrain --price` was told


@dataclass(frozen=True)
class RunCosts:
    """A run's own row. FLOPs are floating-point operations, not rates; None: not known."""

    run: str
    model: str
    hours: float  # wall time of all launches
    steps: int  # distinct
    steps_run: int  # with those that were replayed after a restart
    devices: int  # the most of any launch
    device_hours: float
    device_name: str
    launches: int
    tokens: int
    model_flops: int
    hardware_flops: int
    achieved_flops_per_second: float  # model FLOPs over device-seconds: a device's own rate
    peak_budget_flops: float | None
    mfu: float | None
    hfu: float | None
    measured_seconds_per_step: float | None
    predicted_seconds_per_step: float | None
    price: float | None
    final_loss: float | None

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def read_run(folder: Path) -> RunRecord:
    """Read `config.toml`, `manifest.json` and `metrics.jsonl` of a run folder.

    Raises:
        MissingError: the folder or one of the files is not there.
        DamagedError: a file does not hold what a run writes.
    """
    for name in ("config.toml", MANIFEST, "metrics.jsonl"):
        if not (folder / name).is_file():
            raise MissingError(f"{folder}: not a run folder, {name} is missing")
    run = Run.open(folder)
    manifest, rows = run.manifest(), read_rows(run.metrics, "train")
    return RunRecord(folder, run.config(), manifest.launches, tuple(rows), manifest.price_per_device_hour)


def run_costs(
    record: RunRecord,
    *,
    peak_flops: float | None = None,
    calibration: Calibration | None = None,
    price_per_device_hour: float | None = None,
) -> RunCosts:
    """Account for a run.

    Args:
        record: from `read_run`.
        calibration: this machine's speed, for a run on its processor.
        price_per_device_hour: in any currency; by default the run's own.
        peak_flops: dense peak of one device, where its name is not in the device file (a CPU).
    """
    config, launches = record.config, record.launches
    price = record.price_per_device_hour if price_per_device_hour is None else price_per_device_hour
    device_seconds = sum(launch.device_seconds for launch in launches)
    distinct = {step for launch in launches for step in launch.steps} | {
        row["step"] for row in record.train_rows
    }
    steps_run = max(sum(len(launch.steps) for launch in launches), len(distinct))
    flops = step_flops(config)
    model_flops = _total(record, "model_flops", flops.model, len(distinct))
    hardware_flops = _total(record, "hardware_flops", flops.hardware, steps_run)
    budget = _budget(record, peak_flops, calibration)
    seconds = [row["seconds"] for row in record.train_rows if "seconds" in row]
    return RunCosts(
        run=str(record.folder),
        model=config.name + (" (proxy)" if config.proxy else ""),
        hours=sum(launch.seconds for launch in launches) / 3600,
        steps=len(distinct),
        steps_run=steps_run,
        devices=max((launch.devices for launch in launches), default=0),
        device_hours=device_seconds / 3600,
        device_name=" + ".join(dict.fromkeys(launch.device_name for launch in launches)),
        launches=len(launches),
        tokens=_total(record, "tokens", flops.tokens, len(distinct)),
        model_flops=model_flops,
        hardware_flops=hardware_flops,
        achieved_flops_per_second=model_flops / device_seconds if device_seconds else 0.0,
        peak_budget_flops=budget,
        mfu=model_flops / budget if budget else None,
        hfu=hardware_flops / budget if budget else None,
        measured_seconds_per_step=median(seconds) if seconds else None,
        predicted_seconds_per_step=_predict(record, calibration),
        price=None if price is None else device_seconds / 3600 * price,
        final_loss=record.train_rows[-1].get("loss") if record.train_rows else None,
    )


def _total(record: RunRecord, name: str, planned: int, num_steps: int) -> int:
    """Over `num_steps` steps at the mean of what the recorded ones computed, which differ in padding.

    A step without a record counts as `planned`.
    """
    recorded = [row.get(name, planned) for row in record.train_rows]
    return round(num_steps * mean(recorded)) if recorded else num_steps * planned


def _device_of(launch: Launch) -> Device | None:
    return this_machine() if launch.device_name == CPU else identify(launch.device_name)


def _peak(
    config: RunConfig, launch: Launch, peak_flops: float | None, calibration: Calibration | None
) -> float | None:
    """Of one device; the ranks of a processor share its peak."""
    device = _device_of(launch)
    if peak_flops is not None or device is None:
        return peak_flops
    if device.is_cpu:
        return calibration.peak_flops / launch.devices if calibration else None
    return device.peak(resolve_precision(config, device))


def _budget(record: RunRecord, peak_flops: float | None, calibration: Calibration | None) -> float | None:
    """Seconds x devices x peak over all launches; None if one launch's device has no known peak."""
    total = 0.0
    for launch in record.launches:
        peak = _peak(record.config, launch, peak_flops, calibration)
        if peak is None:
            return None
        total += launch.seconds * launch.devices * peak
    return total


def _predict(record: RunRecord, calibration: Calibration | None) -> float | None:
    """Seconds per step as planned before the run, for the last launch's devices."""
    config = record.config
    device = _device_of(record.launches[-1]) if record.launches else None
    if device is None:
        return None
    # The batch may have been changed since that launch, by `--allow-config-change`.
    num_devices = usable_ranks(config.train, record.launches[-1].devices)
    predicted = step_time(config, device, resolve_precision(config, device), num_devices, calibration)
    return predicted.seconds if predicted else None
