"""Hostile corpora, and hostile texts to build one from; in the style of `hostile.py`."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from fpm_cli.corpus.indexed import HEADER, MAGIC, VERSION
from fpm_cli.corpus.manifest import Manifest
from tests.torture.hostile import DEEP, Attack, Payload
from tests.torture.hostile_parts import SECRET, Document, both, endless, linked, pipe, put

# --- a corpus: manifest.json, train.bin and .idx, validation.*, tokenizer/


def resealed(edit: Callable[[Document], object]) -> Attack:
    """The manifest changed, with a fingerprint that agrees."""

    def attack(corpus: Path, outside: Path, payload: Payload) -> None:
        path = corpus / "manifest.json"
        document = json.loads(path.read_text())
        edit(document)
        document["schema_"] = document.pop("schema")
        path.write_bytes(Manifest.model_validate(document).sealed().to_bytes())

    return attack


def naming(name: str) -> Attack:
    facts = {"bytes": 8, "xxh3_128": "0" * 32}
    return resealed(lambda document: document["files"].update({name: facts}))


def claiming(sequences: int, boundaries: int) -> Attack:
    return put("train.idx", lambda _: HEADER.pack(MAGIC, VERSION, 4, sequences, boundaries))


CORPUS: dict[str, Attack] = {
    **{
        f"the manifest names {name!r}": naming(name)
        for name in (f"../outside/{SECRET}", "/etc/hostname", "tokenizer/../../outside/secret.txt", "a\0b")
    },
    **{
        f"{name} is a link": linked(name) for name in ("train.bin", "train.idx", "README.md", "manifest.json")
    },
    "an unlisted index is a link": both(
        resealed(lambda document: document["files"].pop("train.idx")), linked("train.idx")
    ),
    "the tokenizer's file is a link": linked("tokenizer/tokenizer.json"),
    "an index claims 2^60 documents": claiming(2**60, 2**60 + 1),
    "an index claims 2^64 - 1 sequences": claiming(2**64 - 1, 2**64 - 1),
    "the manifest is deep": put("manifest.json", lambda _: DEEP),
    "the manifest is a pickle": put("manifest.json", pickle.dumps),
    "the manifest is a pipe": pipe("manifest.json"),
    "the manifest is endless": endless("manifest.json"),
    "the card is endless": endless("README.md"),
    "the tokens are a pipe": pipe("train.bin"),
}


# --- texts to build a corpus from


def compressed(name: str, made: bytes) -> Attack:
    pack = gzip.compress if name.endswith(".gz") else zstandard.compress
    return put(name, lambda _: pack(made))


def bomb(name: str, char: bytes) -> Attack:
    """Half a gibibyte of one character, written in pieces: the attack itself takes no memory."""

    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        with (
            (folder / name).open("wb") as file,
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1)
            if name.endswith(".gz")
            else zstandard.ZstdCompressor().stream_writer(file) as packed,
        ):
            for _ in range(512):
                packed.write(char * 2**20)

    return attack


def tar(**member: Any) -> bytes:
    """An archive of one hostile member and one text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo()
        for key, value in member.items():
            setattr(info, key, value)
        info.size = 0 if info.linkname else 3
        archive.addfile(info, None if info.linkname else io.BytesIO(b"out"))
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "out")
    return buffer.getvalue()


OUT = ("../../outside/escaped", "/tmp/fpm-escaped", "a/../../outside/escaped")
TEXTS: dict[str, Attack] = {
    **{
        f"512 MiB of {char!r} in {name}": bomb(name, char)
        for name in ("bomb.txt.gz", "bomb.txt.zst")
        for char in (b"\0", b"a")
    },
    "a bomb within a bomb": put("bomb.txt.gz", lambda _: gzip.compress(gzip.compress(bytes(2**28)))),
    **{f"a zip with {name!r}": put("archive.txt", lambda _, name=name: zipped(name)) for name in OUT},
    **{f"a tar with {name!r}": compressed("archive.txt.gz", tar(name=name)) for name in OUT},
    "a tar with a link": compressed(
        "a.txt.gz", tar(name="a", type=tarfile.SYMTYPE, linkname="../../outside")
    ),
    "a tar with a hard link": compressed(
        "a.txt.zst", tar(name="a", type=tarfile.LNKTYPE, linkname=f"../../outside/{SECRET}")
    ),
    "a link to a text outside": linked("more.txt"),
    "a link to a folder outside": linked("more", "."),
    "a link to nothing": linked("more.txt", "absent"),
    "a pipe": pipe("more.txt"),
    "a pickle": put("more.txt", pickle.dumps),
}
