"""Checkpoints: written aside, checked by a manifest of checksums, renamed into place, then `latest`.

    checkpoints/step-N/deepspeed/         parameters, optimizer and ZeRO state (DeepSpeed's own files)
    checkpoints/step-N/model.safetensors  the weights, whole, for everything that is not training
    checkpoints/step-N/state.json         step, samples seen, world size, ZeRO stage
    checkpoints/step-N/manifest.json      the size and the SHA-256 of every other file
    latest                                the name of the newest complete folder

DeepSpeed's files are pickles: they are read only after the manifest beside them has matched.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.run import Run
from fpm_cli.errors import DamagedError, FpmError, MissingError
from fpm_cli.files import replace_text, sync_file, sync_folder

TAG = "deepspeed"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class CheckpointState:
    """Where training stood. Sample order and dropout follow from `step`; nothing else is needed."""

    step: int  # optimizer steps taken
    samples: int  # sequences seen
    world_size: int
    zero_stage: int


def save_checkpoint(engine: TrainingEngine, run: Run, state: CheckpointState) -> None:
    """Write one checkpoint; every rank calls this. A crash at any moment leaves the previous one.

    Raises:
        FpmError: it could not be written, for example because the disk is full.
    """
    world = engine.world
    final, temporary = run.checkpoints / f"step-{state.step}", run.checkpoints / f".step-{state.step}.tmp"
    if world.leads and temporary.exists():
        shutil.rmtree(temporary)
    world.barrier()
    try:
        _write(engine, run, state, temporary, final)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        free = shutil.disk_usage(run.path).free
        shutil.rmtree(temporary, ignore_errors=True)
        raise FpmError(
            f"{final} could not be written ({error}); {free / 2**20:,.0f} MiB were free on that disk. "
            f"The checkpoint before it is whole; --resume goes on from there"
        ) from error
    world.barrier()


def _write(engine: TrainingEngine, run: Run, state: CheckpointState, temporary: Path, final: Path) -> None:
    """Everything into the temporary folder, made durable, then the one rename that counts."""
    engine.deepspeed.save_checkpoint(str(temporary), tag=TAG, save_latest=False)
    weights = _whole_weights(engine)
    if engine.world.leads:
        for script in temporary.glob("*.py"):  # DeepSpeed adds converters; code has no place among data
            script.unlink()
        _seal(run, weights, state, temporary, final)


def save_weights(run: Run, weights: dict[str, Tensor]) -> None:
    """A checkpoint at step 0 of weights that were not trained here; `--resume` finds no optimizer in it."""
    temporary = run.checkpoints / ".step-0.tmp"
    temporary.mkdir()
    _seal(run, weights, CheckpointState(0, 0, 0, 0), temporary, run.checkpoints / "step-0")


def _seal(run: Run, weights: dict[str, Tensor], state: CheckpointState, temporary: Path, final: Path) -> None:
    """The whole weights, the state and the checksums; then the rename, and `latest`."""
    save_file(weights, temporary / WEIGHTS)
    replace_text(temporary / "state.json", json.dumps(asdict(state), indent=2) + "\n")
    files = {str(path.relative_to(temporary)): _describe(path) for path in _files(temporary)}
    replace_text(temporary / "manifest.json", json.dumps({"files": files}, indent=2) + "\n")
    for path in _files(temporary):
        sync_file(path)
    if final.exists():  # a replayed step: its files are as good as these
        shutil.rmtree(final)
    temporary.rename(final)
    sync_folder(run.checkpoints)
    replace_text(run.path / "latest", final.name + "\n")


def load_checkpoint(engine: TrainingEngine, run: Run) -> CheckpointState | None:
    """Bring the engine to the newest checkpoint of the run; None where none was ever saved.

    Raises:
        DamagedError: it is damaged, or was saved by another number of processes or ZeRO stage.
    """
    folder = latest_checkpoint(run)
    if folder is None:
        return None
    verify_checkpoint(folder)
    state = CheckpointState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
    if state.world_size != engine.world.size:
        raise DamagedError(
            f"{folder} was saved by {state.world_size} processes and is resumed by {engine.world.size}; "
            f"use --nproc {state.world_size}"
        )
    loaded, _ = engine.deepspeed.load_checkpoint(str(folder), tag=TAG)
    if loaded is None:
        raise DamagedError(f"{folder / TAG}: DeepSpeed could not load it")
    return state


def load_weights(run: Run) -> tuple[dict[str, Tensor], int]:
    """The whole weights of the newest checkpoint, on the CPU, and the step they are from.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: the newest one is damaged.
    """
    folder = latest_checkpoint(run)
    if folder is None:
        raise MissingError(f"{run.path} has no checkpoint yet")
    verify_checkpoint(folder, only={WEIGHTS, "state.json"})
    return load_file(folder / WEIGHTS), json.loads((folder / "state.json").read_text())["step"]


def latest_checkpoint(run: Run) -> Path | None:
    """The folder that `latest` names, or None before the first save.

    Raises:
        DamagedError: `latest` names something that is not a checkpoint of this run.
    """
    pointer = run.path / "latest"
    if not pointer.exists():
        return None
    name = pointer.read_text(encoding="utf-8").strip()
    folder = run.checkpoints / name
    if not name.startswith("step-") or "/" in name or not (folder / "manifest.json").is_file():
        raise DamagedError(f"{pointer} names {name!r}, which is not a checkpoint in {run.checkpoints}")
    return folder


def verify_checkpoint(folder: Path, only: set[str] | None = None) -> None:
    """Compare every file (or those named in `only`) with the manifest.

    Raises:
        DamagedError: names the first file that is missing or differs.
    """
    try:
        files: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder / 'manifest.json'}: not a checkpoint manifest") from error
    present = {str(path.relative_to(folder)) for path in _files(folder)} - {"manifest.json"}
    if present != set(files):
        name = sorted(present ^ set(files))[0]
        raise DamagedError(f"{folder / name}: {'missing' if name in files else 'not in the manifest'}")
    for name, expected in files.items():
        if (only is None or name in only) and _describe(folder / name) != expected:
            raise DamagedError(f"{folder / name}: its size or checksum is not what was saved")


def _whole_weights(engine: TrainingEngine) -> dict[str, Tensor]:
    """Every parameter whole, on the CPU of the leading rank; under ZeRO 3 gathered one at a time."""
    import deepspeed

    weights: dict[str, Tensor] = {}
    for name, parameter in engine.model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if engine.world.leads:
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    return weights


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
