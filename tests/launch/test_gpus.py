"""The launcher learns of the GPUs from a process of its own."""

from pathlib import Path

import pytest

from fpm_cli.errors import MissingError
from fpm_cli.launch import gpus
from fpm_cli.launch.gpus import Gpus, query_gpus


def test_a_machine_without_the_driver_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "NVIDIA_DEVICE", tmp_path / "nvidia0")
    assert query_gpus() == Gpus(0, 0, False)


def test_what_the_process_prints_is_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "NVIDIA_DEVICE", tmp_path)
    answer = '{"count": 2, "free_bytes": 5, "has_native_bf16": true}'
    monkeypatch.setattr(gpus, "QUERY", f"print({answer!r})")
    assert query_gpus() == Gpus(2, 5, True)
    monkeypatch.setattr(gpus, "QUERY", "raise RuntimeError('driver too old')")
    with pytest.raises(MissingError, match="driver too old"):
        query_gpus()
