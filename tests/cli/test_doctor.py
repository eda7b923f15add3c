"""What `fpm doctor` finds beside the machine itself."""

import os
import time
from pathlib import Path

import pytest

from fpm_cli.cli import doctor


def test_the_lock_of_a_killed_compilation_is_found_and_a_living_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert "no lock" in doctor._locks()
    long_ago = time.time() - 86_400
    os.utime(lock, (long_ago, long_ago))
    with pytest.raises(RuntimeError, match=f"to be removed: {lock}"):
        doctor._locks()
