"""The bytes of all files in a folder, to see that an attack changed none."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by its path."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
