"""The peak of a Linux process's resident memory between two moments, from the kernel."""

from contextlib import suppress
from pathlib import Path


def peak_bytes(pid: int | str = "self") -> int:
    """The largest resident size since the process began or `reset_peak`; 0 where the process has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak(pid: int | str = "self") -> None:
    """Begin a new peak at the resident size of this moment."""
    with suppress(FileNotFoundError, ProcessLookupError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
