"""The rows of `metrics.jsonl`: one JSON object per optimizer step, validation, save and other event.

Every row has `kind` (`train`, `validation`, `save`, ...) and `step`. A killed run may leave half a line at
the end, which is no row.
"""

import json
from pathlib import Path
from typing import Any

from fpm_cli.errors import DamagedError
from fpm_cli.files import replace_file

Row = dict[str, Any]


def read_rows(path: Path, kind: str | None = None) -> list[Row]:
    """Read the rows, of all kinds or of one, in the file's order; a run that has not trained has none.

    Raises:
        DamagedError: a line is no row; names it. Half a line at the end is passed over.
    """
    rows = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is None and number == len(lines):
            break
        if row is None:
            raise DamagedError(f"{path}, line {number}: not a row of metrics")
        if kind in (None, row["kind"]):
            rows.append(row)
    return rows


def read_last_rows(path: Path) -> dict[str, Row]:
    """Read the last row of each kind.

    Raises:
        DamagedError: as `read_rows`.
    """
    return {row["kind"]: row for row in read_rows(path)}


def drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows of steps after `step`, which will be trained and recorded again, and half a line."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    kept = [line + b"\n" for line in lines if (row := _parse(line)) is not None and row["step"] <= step]
    replace_file(path, b"".join(kept))


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    valid = isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int)
    return row if valid else None
