"""Verifies every file of a run whose size or checksum is recorded."""

from dataclasses import dataclass

from fpm_cli.checkpoints.checkpoint import Manifest, verify_checkpoint
from fpm_cli.checkpoints.folders import (
    MANIFEST,
    checkpoint_step,
    list_checkpoints,
    require_no_lost_checkpoint,
)
from fpm_cli.checkpoints.shards import read_document
from fpm_cli.errors import DamagedError
from fpm_cli.files import hash_file
from fpm_cli.runs.metrics import read_rows
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.registry import load_tokenizer

EXAMPLES = "examples"  # the folder of a fine-tuned run's encoded examples


@dataclass(frozen=True)
class VerifiedRun:
    """What was compared and found as recorded."""

    steps: tuple[int, ...]  # of the checkpoints
    num_files: int
    num_bytes: int


def verify_run(run: Run) -> VerifiedRun:
    """Compare checkpoints, tokenizer and encoded examples with what was recorded when they were written.

    The corpus is verified by itself (`fpm corpus verify`).

    Raises:
        DamagedError: names the first file that is missing, unknown or different.
        UsageError: config.toml is not a valid configuration.
    """
    run.config()
    manifest = run.manifest()
    read_rows(run.metrics)
    require_no_lost_checkpoint(run)
    folders = list_checkpoints(run)
    sizes: list[int] = []
    for folder in folders:
        verify_checkpoint(folder)
        sizes += [facts.bytes for facts in read_document(folder / MANIFEST, Manifest).files.values()]
    if run.tokenizer_path.exists():
        fingerprint = load_tokenizer(run.tokenizer_path).fingerprint
        if manifest.tokenizer_fingerprint not in (None, fingerprint):
            raise DamagedError(
                f"{run.tokenizer_path}: its fingerprint is {fingerprint}, but the run was made with "
                f"{manifest.tokenizer_fingerprint}"
            )
        sizes += [path.stat().st_size for path in run.tokenizer_path.iterdir()]
    for name, checksum in (manifest.task.example_fingerprints if manifest.task else {}).items():
        path = run.path / EXAMPLES / name
        if not path.is_file() or hash_file(path).xxh3_128 != checksum:
            raise DamagedError(f"{path}: missing, or not what the run was created with")
        sizes.append(path.stat().st_size)
    return VerifiedRun(tuple(checkpoint_step(folder) for folder in folders), len(sizes), sum(sizes))
