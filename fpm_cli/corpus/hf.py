"""Data sets of the `datasets` library: saved folders, or ones already in its cache; nothing is fetched."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from fpm_cli.corpus.inputs import FoundInputs, Input
from fpm_cli.corpus.manifest import SkippedInput
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.records import NO_TEXT, Record
from fpm_cli.corpus.shards import Shard
from fpm_cli.errors import MissingError

NOT_SELECTED = "split_not_selected"


def find_datasets(paths: list[Path], options: BuildOptions) -> FoundInputs:
    """One input for each of the splits that `options.hf_splits` names, of each data set.

    A path is a folder that `save_to_disk` wrote, or `NAME`, `NAME:CONFIGURATION` of a cached data set. A
    data set without splits is read whole. Raises MissingError for a split that it does not have.
    """
    selection = FoundInputs()
    for path in paths:
        splits = load_splits(str(path))
        by_name = {name.rpartition("/")[2] if "/" in name else "": name for name in sorted(splits)}
        wanted = options.hf_splits if options.hf_splits and "" not in by_name else tuple(by_name)
        if absent := [name for name in wanted if name not in by_name]:
            raise MissingError(
                f"data set {path}: no split {absent[0]!r}; --hf-splits takes of {', '.join(by_name)}, or all"
            )
        for split, name in by_name.items():
            if split in wanted:
                selection.inputs.append(Input(name, path, len(splits[name])))
            else:
                selection.skipped.append(SkippedInput(name=name, reason=NOT_SELECTED))
    return selection


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
            yield Record(number, None, NO_TEXT, keys=", ".join(row))
