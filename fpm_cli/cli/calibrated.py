"""Where this machine's calibration is kept: the user's cache folder."""

import os
from pathlib import Path

from fpm_cli.accounting.calibration import Calibration


def calibration_path() -> Path:
    """`$XDG_CACHE_HOME/fpm/calibration.json`, by default under `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fpm" / "calibration.json"


def stored_calibration() -> Calibration | None:
    """What `fpm plan --calibrate` measured here, or None."""
    return Calibration.load(calibration_path())
