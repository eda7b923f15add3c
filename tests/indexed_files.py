"""Writes an indexed dataset as `fpm build-corpus` does: from the files that encoded shards leave."""

import shutil
from pathlib import Path

import numpy as np

from fpm_cli.corpus.indexed import IndexedDataset, token_dtype
from fpm_cli.corpus.manifest import SplitFacts
from fpm_cli.corpus.merge import merge_split
from fpm_cli.corpus.work_folder import WorkFolder


def write_indexed(
    prefix: Path, documents: list[list[list[int]]], vocab_size: int = 65_000, num_shards: int = 2
) -> IndexedDataset:
    """Write documents, each a list of sequences of token ids, as `PREFIX.bin` and `PREFIX.idx`."""
    work = WorkFolder(prefix.with_name(f"{prefix.name}.building"))
    (work.path / "shards").mkdir(parents=True)
    dtype = token_dtype(vocab_size)
    for shard in range(num_shards):
        part = documents[shard * len(documents) // num_shards : (shard + 1) * len(documents) // num_shards]
        sequences = [sequence for document in part for sequence in document]
        ids = np.array([token for sequence in sequences for token in sequence], dtype)
        arrays = {
            "bin": ids,
            "sizes": np.array([len(sequence) for sequence in sequences], np.int32),
            "lengths": np.array([len(document) for document in part], np.int32),
        }
        for kind, values in arrays.items():
            work.file(shard, f"{prefix.name}.{kind}").write_bytes(values.tobytes())
    num_sequences = sum(map(len, documents))
    num_tokens = sum(len(sequence) for document in documents for sequence in document)
    facts = SplitFacts(
        documents=len(documents),
        sequences=num_sequences,
        tokens=num_tokens,
        text_bytes=0,
        text_characters=0,
    )
    merge_split(prefix.name, facts, list(range(num_shards)), dtype, work, prefix.parent)
    shutil.rmtree(work.path)
    return IndexedDataset(prefix)
