"""Data sets of the `datasets` library: saved folders, or ones already in its cache; nothing is fetched."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from fpm_cli.corpus.inputs import Input
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.readers import NO_TEXT, Record
from fpm_cli.corpus.shards import Shard
from fpm_cli.errors import MissingError


def find_datasets(paths: list[Path]) -> list[Input]:
    """One input for each split of each data set.

    A path is a folder that `save_to_disk` wrote, or `NAME`, `NAME:CONFIGURATION` of a cached data set.
    """
    return [
        Input(name, path, len(rows))
        for path in paths
        for name, rows in sorted(load_splits(str(path)).items())
    ]


@lru_cache(maxsize=4)
def load_splits(path: str) -> dict[str, Any]:
    """Each split of a saved or cached data set by name: `folder`, or `name/split`.

    Raises:
        MissingError: it is neither a saved folder nor in the cache.
    """
    import datasets
    import huggingface_hub.constants

    # `local_files_only` alone still asks the Hub about the name before it looks into the cache.
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        if Path(path).is_dir():
            loaded = datasets.load_from_disk(path)
        else:
            name, _, configuration = path.partition(":")
            offline = datasets.DownloadConfig(local_files_only=True)
            loaded = datasets.load_dataset(name, configuration or None, download_config=offline)
    except (OSError, ValueError) as error:
        raise MissingError(f"data set {path}: neither a saved folder nor in the cache ({error})") from None
    name = Path(path).name
    if isinstance(loaded, datasets.Dataset):
        return {name: loaded}
    return {f"{name}/{split}": rows for split, rows in loaded.items()}


def read_rows(shard: Shard, options: BuildOptions) -> Iterator[Record]:
    """A row is a document; offsets are row numbers."""
    rows = load_splits(str(shard.input.path))[shard.input.name]
    for number in range(shard.start, shard.end):
        row = rows[number]
        text = row.get(options.text_field)
        identity = row.get(options.id_field) if options.id_field else None
        if isinstance(text, str):
            yield Record(number, text, id="" if identity is None else str(identity))
        else:
            yield Record(number, None, NO_TEXT)
