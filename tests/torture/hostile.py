"""Fifty ways to make a run folder that would do harm if something in it were run, followed or believed.

Each function is given a good run folder, a folder outside it, and a command that a pickle would run.
"""

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import xxhash
import zstandard

Attack = Callable[[Path, Path, "Payload"], None]
WEIGHTS, OPTIMIZER, RANK, STATE, MANIFEST = (
    "weights-0.safetensors",
    "optimizer-0.safetensors",
    "rank-0.json",
    "state.json",
    "manifest.json",
)


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def checkpoint(run: Path) -> Path:
    return run / "checkpoints/step-1"


def sign(folder: Path) -> None:
    """Make the manifest agree with the files: checksums guard against damage, not against malice."""
    files = {}
    for path in folder.iterdir():
        if path.name != MANIFEST and path.is_file():
            content = path.read_bytes()
            files[path.name] = {"bytes": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}
    (folder / MANIFEST).write_text(json.dumps({"files": files}))


def torch_zip(payload: Payload) -> bytes:
    """What `torch.save` writes, with the payload as its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def escaping_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../../outside/escaped", "out")
    return buffer.getvalue()


def escaping_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("../../../outside/escaped")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    return buffer.getvalue()


def header(document: object, data: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + data


def content(name: str, make: Callable[[Payload], bytes], *, signed: bool) -> Attack:
    """Another content for one file of the checkpoint."""

    def attack(run: Path, outside: Path, payload: Payload) -> None:
        (checkpoint(run) / name).write_bytes(make(payload))
        if signed:
            sign(checkpoint(run))

    return attack


def edited(name: str, edit: Callable[[dict], object]) -> Attack:  # type: ignore[type-arg]
    """A JSON file of the checkpoint, changed and signed."""

    def attack(run: Path, outside: Path, payload: Payload) -> None:
        path = checkpoint(run) / name
        document = json.loads(path.read_text())
        edit(document)
        path.write_text(json.dumps(document))
        if name != MANIFEST:
            sign(checkpoint(run))

    return attack


def pointer(make: Callable[[Path], bytes]) -> Attack:
    def attack(run: Path, outside: Path, payload: Payload) -> None:
        (run / "latest").write_bytes(make(outside))

    return attack


def run_file(name: str, make: Callable[[Payload], bytes]) -> Attack:
    def attack(run: Path, outside: Path, payload: Payload) -> None:
        (run / name).write_bytes(make(payload))

    return attack


def linked(place: str, target: str) -> Attack:
    """Something in the run is a link to something outside."""

    def attack(run: Path, outside: Path, payload: Payload) -> None:
        path = run / place
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(outside / target)
        if place.startswith("checkpoints/step-1/") and path.name != MANIFEST and path.is_file():
            sign(checkpoint(run))

    return attack


def strange(place: str, make: Callable[[Path], object]) -> Attack:
    """A thing that is no file where one is expected."""

    def attack(run: Path, outside: Path, payload: Payload) -> None:
        path = run / place
        path.unlink(missing_ok=True)
        make(path)

    return attack


def sparse(name: str) -> Attack:
    """A terabyte of nothing."""

    def attack(run: Path, outside: Path, payload: Payload) -> None:
        os.truncate(checkpoint(run) / name, 2**40)

    return attack


def huge(document: dict) -> None:  # type: ignore[type-arg]
    document["shapes"] = {name: [10**6, 10**6] for name in document["shapes"]}


def endless(document: dict) -> None:  # type: ignore[type-arg]
    document["stretches"][0]["length"] = 10**15


def backwards(document: dict) -> None:  # type: ignore[type-arg]
    document["stretches"][0]["start"] = -8


def beyond(document: dict) -> None:  # type: ignore[type-arg]
    document["stretches"][0]["start"] = 10**12


def foreign(document: dict) -> None:  # type: ignore[type-arg]
    document["stretches"][0]["leaf"] = "../../outside/secret"


PICKLED = (lambda payload: pickle.dumps(payload), torch_zip)
DEEP = b"[" * 200_000
NAMES = (
    "../../../outside/secret",
    "/etc/passwd",
    "a/../../b",
    "\0",
    "step-1\\..",
    "weights-0.safetensors/..",
)
ATTACKS: dict[str, Attack] = {
    **{
        f"pickle {kind} as {name}, {'signed' if signed else 'unsigned'}": content(name, make, signed=signed)
        for kind, make in enumerate(PICKLED)
        for name in (WEIGHTS, OPTIMIZER, RANK, STATE)
        for signed in (True, False)
    },
    **{
        f"pickle {k} as the manifest": content(MANIFEST, make, signed=False) for k, make in enumerate(PICKLED)
    },
    "pickle beside the files, signed": content("mp_rank_00_model_states.pt", torch_zip, signed=True),
    "pickle beside the files": content("mp_rank_00_model_states.pt", torch_zip, signed=False),
    "pickle as the run's manifest": run_file("manifest.json", pickle.dumps),
    "pickle as config.toml": run_file("config.toml", pickle.dumps),
    "pickle as latest": run_file("latest", pickle.dumps),
    "latest climbs out": pointer(lambda outside: b"../../outside/step-1"),
    "latest climbs out from a step": pointer(lambda outside: b"step-1/../../../outside/step-1"),
    "latest is absolute": pointer(lambda outside: bytes(outside)),
    "latest is endless": pointer(lambda outside: b"step-" + b"9" * 10**7),
    "latest is a link": linked("latest", "secret"),
    "latest is a folder": strange("latest", Path.mkdir),
    "a newer step is a link": linked("checkpoints/step-9", "step-9"),
    "a left-over is a link": linked("checkpoints/.step-9.tmp", "step-9"),
    "a left-over file is a link": linked("checkpoints/.step-8.tmp/weights-0.safetensors", "secret"),
    **{
        f"{name} is a link": linked(f"checkpoints/step-1/{name}", "secret")
        for name in (WEIGHTS, RANK, MANIFEST)
    },
    "the state is a pipe": strange(f"checkpoints/step-1/{STATE}", os.mkfifo),
    "the weights are a folder": strange(f"checkpoints/step-1/{WEIGHTS}", Path.mkdir),
    **{
        f"the manifest names {name!r}": edited(
            MANIFEST, lambda d, name=name: d["files"].update({name: {"bytes": 1, "xxh3_128": ""}})
        )
        for name in NAMES
    },
    "the manifest is deep": content(MANIFEST, lambda _: DEEP, signed=False),
    "the state is deep": content(STATE, lambda _: DEEP, signed=True),
    "the manifest is a terabyte": sparse(MANIFEST),
    "the weights are a terabyte": sparse(WEIGHTS),
    "the shapes are a terabyte": edited(STATE, huge),
    "a stretch is endless": edited(RANK, endless),
    "a stretch begins before its leaf": edited(RANK, backwards),
    "a stretch begins beyond its leaf": edited(RANK, beyond),
    "a leaf is a path": edited(RANK, foreign),
    "a zip that escapes": content(WEIGHTS, lambda _: escaping_zip(), signed=True),
    "a tar that escapes": content(WEIGHTS, lambda _: escaping_tar(), signed=True),
    "a gzip bomb": content(WEIGHTS, lambda _: gzip.compress(bytes(2**28), 1), signed=True),
    "a zstandard bomb": content(WEIGHTS, lambda _: zstandard.compress(bytes(2**28)), signed=True),
    "a header without end": content(WEIGHTS, lambda _: b"\xff" * 64, signed=True),
    "a header that reaches beyond the file": content(
        WEIGHTS,
        lambda _: header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        signed=True,
    ),
    "a header that is deep": content(WEIGHTS, lambda _: len(DEEP).to_bytes(8, "little") + DEEP, signed=True),
}
