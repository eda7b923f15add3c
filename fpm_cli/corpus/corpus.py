"""A finished corpus: a folder with `manifest.json`, `tokenizer/`, and the indexed files of each split."""

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.card import CARD, data_card
from fpm_cli.corpus.indexed import IndexedDataset
from fpm_cli.corpus.manifest import Manifest, Split, read_manifest
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import hash_file
from fpm_cli.foreign import within
from fpm_cli.tokenization.base import Tokenizer

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"


class Corpus:
    """Opens the folder that `fpm build-corpus` wrote; files are mapped, nothing is loaded whole.

    A GPT or T5 sequence is a document that ends in `<eod>`; a BERT sequence is a sentence.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._splits: dict[Split, IndexedDataset] = {}

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """Open a corpus; every file must be there with the size the manifest states.

        Raises MissingError (no corpus, or a file absent) or DamagedError (a size differs, or a name or a
        link leads out of the folder).
        """
        folder = Path(path)
        if not folder.is_dir():
            raise MissingError(f"corpus {folder} is not there; `fpm build-corpus` makes one")
        corpus = cls(folder, read_manifest(within(folder, MANIFEST)))
        for name, facts in corpus.manifest.files.items():
            file = within(folder, name)
            if not file.is_file():
                raise MissingError(f"{file} is not there, but the manifest lists it")
            if (size := file.stat().st_size) != facts.bytes:
                raise DamagedError(f"{file}: {size} bytes, but the manifest says {facts.bytes}")
        return corpus

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids, loaded at first use and checked against the manifest."""
        from fpm_cli.tokenization.registry import load_tokenizer  # here: reading ids needs no tokenizer

        tokenizer = load_tokenizer(within(self.path, TOKENIZER))
        if tokenizer.fingerprint != self.manifest.tokenizer.fingerprint:
            raise DamagedError(
                f"{self.path / TOKENIZER}: fingerprint {tokenizer.fingerprint}, but the corpus was made "
                f"with {self.manifest.tokenizer.fingerprint}"
            )
        return tokenizer

    def split(self, name: Split) -> IndexedDataset:
        """The sequences of one split, memory-mapped."""
        if name not in self._splits:
            for suffix in (".idx", ".bin"):
                within(self.path, f"{name}{suffix}")
            dataset = IndexedDataset(self.path / name)
            facts = self.manifest.splits[name]
            for what, found, stated in (
                ("documents", dataset.num_documents, facts.documents),
                ("sequences", dataset.num_sequences, facts.sequences),
                ("tokens", dataset.num_tokens, facts.tokens),
            ):
                if found != stated:
                    raise DamagedError(f"{self.path / name}: {found} {what}, but the manifest says {stated}")
            self._splits[name] = dataset
        return self._splits[name]

    def word_starts(self, name: Split) -> npt.NDArray[np.uint8] | None:
        """One byte per token of the split: 1 where a whole word begins; None but for BERT corpora."""
        path = self.path / f"{name}.words.bin"
        if path.name not in self.manifest.files:
            return None
        if self.manifest.files[path.name].bytes == 0:
            return np.empty(0, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)

    def verify(self) -> None:
        """Read every file and compare its checksum; DamagedError names each one that differs."""
        files = self.manifest.files
        damaged = [name for name, facts in files.items() if hash_file(self.path / name) != facts]
        # These two follow from the manifest's content, so no checksum need be written down for them.
        expected = {MANIFEST: self.manifest.to_bytes(), CARD: data_card(self.manifest).encode()}
        for name, content in expected.items():
            file = within(self.path, name)
            if not file.is_file() or file.stat().st_size != len(content) or file.read_bytes() != content:
                damaged.append(name)
        if damaged:
            raise DamagedError(f"{self.path}: damaged (checksum differs): {', '.join(damaged)}")
