"""Makes the run folder of a fine-tuning: source weights under a new head, examples encoded, all on record."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.files import hash_file, new_folder
from fpm_cli.inference.trained import Trained, load_trained
from fpm_cli.interop.import_run import import_run
from fpm_cli.models.classifier import build_classifier, load_backbone
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.encoded import EncodedExamples, encode_examples
from fpm_cli.tasks.examples import Example, read_examples
from fpm_cli.tasks.finetuning import EXAMPLES
from fpm_cli.tasks.recipe import both_orders, finetune_config
from fpm_cli.tasks.task_run import record_task
from fpm_cli.tokenization.registry import load_tokenizer

VALIDATION_SHARE = 0.05
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Request:
    """What `fpm finetune` was asked for."""

    task: TaskDefinition
    source: Path  # a run, or a folder in transformers' format
    train_files: tuple[Path, ...]
    validation: Path | float = VALIDATION_SHARE  # a file, or the share of the training rows to hold back
    dev_file: Path | None = None
    max_bad: int | None = None
    from_scratch: bool = False  # the network of `source` without its weights
    config_file: Path | None = None
    environment: Mapping[str, str] | None = None
    assignments: Sequence[str] = ()


def create_run(request: Request, out: Path, log: Callable[[str], None] = lambda _: None) -> Run:
    """Make the run folder `out`, whole or not at all; training starts from its checkpoint of step 0.

    Raises:
        UsageError, MissingError, DamagedError: by what is wrong with the request, its files or its source.
    """
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as temporary:
        train, held_back = _examples(request, log)
        trained, origin = _source(request.source, Path(temporary) / "imported")
        config = finetune_config(
            trained.config,
            request.task,
            len(train),
            config_file=request.config_file,
            environment=request.environment,
            assignments=request.assignments,
        )
        tokenizer, length = trained.tokenizer, config.train.sequence_length
        if tokenizer.vocab_size > config.model.vocab_size:
            raise DamagedError(
                f"model.vocab_size: the tokenizer has {tokenizer.vocab_size:,} entries, "
                f"the network {config.model.vocab_size:,}"
            )
        log(f"encoding {len(train):,} examples, and {len(held_back):,} to validate on")
        swapped = [pair.swapped() for pair in train] if both_orders(config) else []
        parts = ([*train, *swapped], held_back)
        encoded = [encode_examples(part, tokenizer, config.family, length) for part in parts]
        run = Run.create(folder, config, None)
        tokenizer.save(run.tokenizer_path)
        facts = _save_examples(run, encoded)
        run.write_manifest(
            {
                **run.manifest(),
                "corpus": None,
                "tokenizer_fingerprint": tokenizer.fingerprint,
                "from": origin,
                "from_scratch": request.from_scratch,
                "train_fingerprints": {str(path): _fingerprint(path) for path in request.train_files},
                "validation": str(request.validation),
                "num_examples": dict(zip(SPLITS, (len(train), len(held_back)), strict=True)),
                "labels": list(request.task.labels),
                EXAMPLES: facts,
            }
        )
        record_task(run, request.task, request.train_files, request.dev_file)
        model = build_classifier(config, len(request.task.labels))
        if not request.from_scratch:
            untrained = load_backbone(model, trained.model.state_dict())
            assert not untrained, untrained
        save_weights(run, {name: tensor.detach() for name, tensor in model.named_parameters()})
    return Run.open(out)


def check_unchanged(run: Run) -> None:
    """Refuse to go on with another tokenizer or other examples than the run began with.

    Raises:
        DamagedError: names the field, what it was and what it is.
    """
    manifest = run.manifest()
    now = {"tokenizer_fingerprint": load_tokenizer(run.tokenizer_path).fingerprint}
    for field, value in now.items():
        if manifest.get(field) != value:
            raise DamagedError(f"{run.path}: {field} was {manifest.get(field)} and is now {value}")
    for name, fingerprint in manifest.get(EXAMPLES, {}).items():
        if _fingerprint(run.path / EXAMPLES / name) != fingerprint:
            raise DamagedError(f"{run.path / EXAMPLES / name}: not what the run began with")


def _examples(request: Request, log: Callable[[str], None]) -> tuple[list[Example], list[Example]]:
    def read(path: Path) -> list[Example]:
        found = read_examples(request.task, path, max_bad=request.max_bad)
        for complaint in found.complaints():
            log(complaint)
        log(
            f"{path}: {found.rows:,} rows, {len(found.examples):,} accepted, {len(found.rejected):,} rejected"
        )
        return list(found.examples)

    if not request.train_files:
        raise UsageError("--train is missing: the file, or files, to train on")
    train = [example for path in request.train_files for example in read(path)]
    if isinstance(request.validation, Path):
        return train, read(request.validation)
    return hold_back(train, request.validation)


def hold_back(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Split off about `share` of the examples to validate on, by a hash of their text alone.

    Repeated texts, of which there are thousands in TNEWS, thus never stand on both sides.

    Raises:
        UsageError: a side is empty.
    """
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        text = f"{example.text_a}\t{example.text_b or ''}"
        sides[xxhash.xxh3_64_intdigest(text.encode()) < share * 2**64].append(example)
    for side, name in zip(sides, SPLITS, strict=True):
        if not side:
            raise UsageError(
                f"--validation {share:g} of {len(examples):,} examples leaves none for {name}; name a file"
            )
    return sides


def _source(path: Path, temporary: Path) -> tuple[Trained, dict[str, Any]]:
    """The network to start from, and what the manifest says of it."""
    if (path / "manifest.json").is_file():
        run = Run.open(path)
        manifest = run.manifest()
        if "task" in manifest:
            raise UsageError(f"{path} is already fine-tuned for {manifest['task']}; --from a pretrained run")
        trained = load_trained(run)
        began_with, now = manifest.get("tokenizer_fingerprint"), trained.tokenizer.fingerprint
        if began_with not in (None, now):
            raise DamagedError(f"{path}: tokenizer_fingerprint was {began_with} and is now {now}")
    elif (path / "config.json").is_file():
        name = path.resolve().name
        trained = load_trained(Run.open(import_run(path, temporary, name).run))
    else:
        raise MissingError(f"--from {path}: neither a run folder nor one in transformers' format")
    weights = next((trained.run.checkpoints / f"step-{trained.step}").glob("manifest.json"))
    origin = {
        "run": str(path.resolve()),
        "name": trained.config.name,
        "step": trained.step,
        "weights_fingerprint": _fingerprint(weights),
        "tokenizer_fingerprint": trained.tokenizer.fingerprint,
    }
    return trained, origin


def _save_examples(run: Run, encoded: Sequence[EncodedExamples]) -> dict[str, str | None]:
    folder = run.path / EXAMPLES
    folder.mkdir()
    for split, part in zip(SPLITS, encoded, strict=True):
        part.save(folder / f"{split}.safetensors")
    return {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}


def _fingerprint(path: Path) -> str | None:
    """xxh3-128 of a file; None for a data set that is no single file."""
    return hash_file(path).xxh3_128 if path.is_file() else None
