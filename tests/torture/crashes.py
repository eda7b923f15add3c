"""A disk that records what is done to it, and what a crash could leave of that.

The model is POSIX's promise and no more. A file's bytes are durable once the file was synced, a folder's
names once the folder was; anything else may be there after a crash, or not, or in part, in any order.
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, is the kind of test this is.)
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fpm_cli.files import Disk


@dataclass(eq=False)
class Data:
    """A file: its durable bytes and the writes after them."""

    durable: bytes = b""
    pending: list[bytes] = field(default_factory=list)


@dataclass(eq=False)
class Folder:
    """A folder as the process sees it, as it is on the platter, and the changes between."""

    now: dict[str, "Folder | Data"] = field(default_factory=dict)
    durable: dict[str, "Folder | Data"] = field(default_factory=dict)
    pending: list["Change"] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """A name that came, with what it names, or that went (None); a rename is both, in one."""

    gone: str | None
    come: str | None
    node: Folder | Data | None


Operation = Callable[[Folder], None]


class Recorder(Disk):
    """The real disk under `root`, remembering every call as an operation on the model."""

    def __init__(self, root: Path):
        self.root, self.operations, self._open = root, list[Operation](), dict[int, tuple[str, ...]]()

    def _parts(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.root).parts

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        parts = self._parts(path)
        self.operations.append(lambda top: _change(top, parts[:-1], None, parts[-1], Folder()))

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        parts = self._open[descriptor] = self._parts(path)
        self.operations.append(lambda top: _change(top, parts[:-1], None, parts[-1], Data()))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        written, parts = super().write(descriptor, data), self._open[descriptor]
        copied = bytes(data[:written])
        self.operations.append(lambda top: _file(top, parts).pending.append(copied))
        return written

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        parts = self._open[descriptor]
        self.operations.append(lambda top: _sync_file(_file(top, parts)))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        one, other = self._parts(source), self._parts(target)
        assert one[:-1] == other[:-1], "the model renames within a folder"
        self.operations.append(lambda top: _change(top, one[:-1], one[-1], other[-1], None))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        parts = self._parts(path)
        self.operations.append(lambda top: _sync_folder(_folder(top, parts)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        parts = self._parts(path)
        self.operations.append(lambda top: _change(top, parts[:-1], parts[-1], None, None))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        parts = self._parts(path)
        self.operations.append(lambda top: _change(top, parts[:-1], parts[-1], None, None))


def _folder(top: Folder, parts: Sequence[str]) -> Folder:
    for part in parts:
        below = top.now[part]
        assert isinstance(below, Folder)
        top = below
    return top


def _file(top: Folder, parts: Sequence[str]) -> Data:
    found = _folder(top, parts[:-1]).now[parts[-1]]
    assert isinstance(found, Data)
    return found


def _change(
    top: Folder, parts: Sequence[str], gone: str | None, come: str | None, node: Folder | Data | None
) -> None:
    folder = _folder(top, parts)
    if gone is not None:
        removed = folder.now.pop(gone)
        node = removed if come is not None else None
    if come is not None:
        assert node is not None
        folder.now[come] = node
    folder.pending.append(Change(gone, come, node))


def _apply(entries: dict[str, Folder | Data], change: Change) -> None:
    if change.gone is not None:
        entries.pop(change.gone, None)
    if change.come is not None and change.node is not None:
        entries[change.come] = change.node


def _sync_file(file: Data) -> None:
    file.durable += b"".join(file.pending)
    file.pending.clear()


def _sync_folder(folder: Folder) -> None:
    for change in folder.pending:
        _apply(folder.durable, change)
    folder.pending.clear()


@dataclass(frozen=True)
class Damage:
    """Which unsynced names a crash keeps, and what becomes of unsynced bytes."""

    name: str
    names: Callable[[list[Change], random.Random], list[Change]]
    data: Callable[[list[bytes], random.Random], bytes]


def _all(changes: list[Change], chance: random.Random) -> list[Change]:
    return changes


def _none(changes: list[Change], chance: random.Random) -> list[Change]:
    return []


def _half(changes: list[Change], chance: random.Random) -> list[Change]:
    return [change for change in changes if chance.random() < 0.5]


def _last(changes: list[Change], chance: random.Random) -> list[Change]:
    return changes[-1:]


def _whole(writes: list[bytes], chance: random.Random) -> bytes:
    return b"".join(writes)


def _dropped(writes: list[bytes], chance: random.Random) -> bytes:
    return b""


def _torn(writes: list[bytes], chance: random.Random) -> bytes:
    whole = b"".join(writes)
    return whole[: chance.randrange(len(whole) + 1)]


def _zeros(writes: list[bytes], chance: random.Random) -> bytes:
    return bytes(sum(map(len, writes)))


def _garbage(writes: list[bytes], chance: random.Random) -> bytes:
    return chance.randbytes(sum(map(len, writes)))


def _reordered(writes: list[bytes], chance: random.Random) -> bytes:
    """The last write reached the platter, those before it did not."""
    return b"".join([bytes(len(write)) for write in writes[:-1]] + writes[-1:])


DAMAGES = (
    Damage("nothing unsynced", _none, _dropped),
    Damage("everything", _all, _whole),
    Damage("names, no bytes", _all, _dropped),
    Damage("names, torn bytes", _all, _torn),
    Damage("names, zeros", _all, _zeros),
    Damage("names, garbage", _all, _garbage),
    Damage("names, bytes reordered", _all, _reordered),
    Damage("half the names", _half, _whole),
    Damage("half the names, torn bytes", _half, _torn),
    Damage("the last name alone, bytes reordered", _last, _reordered),
)

Image = dict[str, "bytes | None"]  # path -> content; None for a folder


def read_image(root: Path) -> Image:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def write_image(image: Image, root: Path) -> None:
    root.mkdir()
    for name, content in image.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def crashed(before: Image, operations: Sequence[Operation], damage: Damage, seed: int) -> Image:
    """What is there after a crash behind these operations, `before` having been durable."""
    top = _model(before)
    for operation in operations:
        operation(top)
    chance, image = random.Random(seed), Image()

    def keep(folder: Folder, prefix: str) -> None:
        entries = dict(folder.durable)
        for change in damage.names(folder.pending, chance):
            _apply(entries, change)
        for name, node in sorted(entries.items()):
            if isinstance(node, Data):
                image[prefix + name] = node.durable + damage.data(node.pending, chance)
            else:
                image[prefix + name] = None
                keep(node, f"{prefix}{name}/")

    keep(top, "")
    return image


def _model(image: Image) -> Folder:
    top = Folder()
    for name, content in image.items():
        *parts, last = name.split("/")
        _folder(top, parts).now[last] = Folder() if content is None else Data(content)
    stack = [top]
    while stack:
        folder = stack.pop()
        folder.durable = dict(folder.now)
        stack += [node for node in folder.now.values() if isinstance(node, Folder)]
    return top
