"""The checkpoint folders of a run: which are complete, which is the newest, and whether one was lost.

No torch here, so that the command line can refuse a run before it imports anything large.
"""

import logging
import re
from pathlib import Path

from fpm_cli.errors import DamagedError
from fpm_cli.runs.metrics import read_last_rows
from fpm_cli.runs.run import Run

MANIFEST = "manifest.json"
_FOLDER = re.compile(r"step-(0|[1-9][0-9]{0,17})")
log = logging.getLogger(__name__)


def list_checkpoints(run: Run) -> list[Path]:
    """Every complete checkpoint, oldest first."""
    return sorted((path for path in _step_folders(run) if (path / MANIFEST).is_file()), key=checkpoint_step)


def checkpoint_step(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def find_latest_checkpoint(run: Run) -> Path | None:
    """The newest complete checkpoint, or None before the first save.

    It does not depend on `latest`, which is only compared: after a crash it may name the one before, and a
    copy of the run may lack it.

    Raises:
        DamagedError: there is none, but the run had one.
    """
    folders = list_checkpoints(run)
    if not folders:
        require_no_lost_checkpoint(run)
        return None
    newest, pointer = folders[-1], run.path / "latest"
    name = _read_pointer(pointer)
    if name != newest.name:
        state = "is missing" if name is None else f"names {name!r}"
        log.warning("%s %s; the newest complete checkpoint is %s", pointer, state, newest)
    return newest


def require_no_lost_checkpoint(run: Run) -> None:
    """Check that a run without a complete checkpoint never had one: else training would start from step 1.

    Raises:
        DamagedError: something in the run says that it had one; names it.
    """
    if not list_checkpoints(run) and (evidence := _evidence_of_a_checkpoint(run)):
        raise DamagedError(
            f"{run.checkpoints} has no complete checkpoint, but {evidence}; restore it from a copy, or start "
            "a new run with another --out"
        )


def _evidence_of_a_checkpoint(run: Run) -> str | None:
    if name := _read_pointer(run.path / "latest"):
        return f"{run.path / 'latest'} names {name!r}"
    if folders := sorted(_step_folders(run)):
        return f"{folders[-1]} is there without its {MANIFEST}"
    try:
        manifest, rows = run.manifest(), read_last_rows(run.metrics)
    except DamagedError:  # reported where they are needed
        return None
    if saved := rows.get("save"):
        return f"{run.metrics} records one at step {saved['step']}"
    if manifest.imported or manifest.task:
        return "the run was created with one at step 0"
    return None


def _step_folders(run: Run) -> list[Path]:
    entries = run.checkpoints.iterdir() if run.checkpoints.is_dir() else ()
    return [path for path in entries if _FOLDER.fullmatch(path.name) and not path.is_symlink()]


def _read_pointer(pointer: Path) -> str | None:
    try:
        return pointer.read_bytes()[:100].decode("utf-8", "replace").strip() if pointer.is_file() else None
    except OSError as error:
        return str(error)
