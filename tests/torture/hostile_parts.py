"""What hostile folders are made of, whatever they are folders of."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.hostile import Attack, Payload

SECRET = "secret.txt"
Document = dict[str, Any]


def put(name: str, make: Callable[[Payload], bytes]) -> Attack:
    """Another content for one file, or one more file."""

    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(make(payload))

    return attack


def edited(name: str, edit: Callable[[Document], object]) -> Attack:
    """A JSON file, changed."""

    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        document = json.loads((folder / name).read_text())
        edit(document)
        (folder / name).write_text(json.dumps(document))

    return attack


def linked(name: str, target: str = SECRET) -> Attack:
    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / target)

    return attack


def pipe(name: str) -> Attack:
    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return attack


def endless(name: str) -> Attack:
    """A terabyte of nothing, on a disk that takes it."""

    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        (folder / name).touch()
        os.truncate(folder / name, 2**40)

    return attack


def both(*attacks: Attack) -> Attack:
    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        for each in attacks:
            each(folder, outside, payload)

    return attack
