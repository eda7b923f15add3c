"""Creates the run folder of a fine-tuning: pretrained weights with a new head, and the encoded examples."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.files import hash_file, new_folder
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.interop.import_run import import_run
from fpm_cli.models.classifier import build_classifier, load_backbone
from fpm_cli.runs.manifest import TaskRecord, WeightsOrigin
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.encoded import EncodedExamples, encode_examples
from fpm_cli.tasks.examples import Example, read_examples
from fpm_cli.tasks.finetuning import EXAMPLES
from fpm_cli.tasks.recipe import both_orders, finetune_config
from fpm_cli.tasks.split_validation import SPLITS, split_off_validation
from fpm_cli.tasks.task_run import record_task
from fpm_cli.tokenization.registry import load_tokenizer

VALIDATION_FRACTION = 0.05


@dataclass(frozen=True)
class FinetuneRequest:
    """The arguments of `fpm finetune`."""

    task: TaskDefinition
    source: Path  # a run, or a folder in transformers' format
    train_files: tuple[Path, ...]
    validation: Path | float = (
        VALIDATION_FRACTION  # a file, or the fraction of the training rows to validate on
    )
    dev_file: Path | None = None
    max_bad: int | None = None
    from_scratch: bool = False  # the network of `source` with new weights
    config_file: Path | None = None
    environment: Mapping[str, str] | None = None
    assignments: Sequence[str] = ()


def create_run(request: FinetuneRequest, out: Path, log: Callable[[str], None] = lambda _: None) -> Run:
    """Create the run folder `out`, whole or not at all; training starts from its checkpoint of step 0.

    Raises:
        UsageError, MissingError, DamagedError: the request, its files or its source cannot be used.
    """
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as temporary:
        train, validation = _examples(request, log)
        pretrained, origin = _source(request.source, Path(temporary) / "imported")
        config = _config(request, pretrained, len(train))
        tokenizer, length = pretrained.tokenizer, config.train.sequence_length
        log(f"encoding {len(train):,} examples, and {len(validation):,} to validate on")
        swapped = [pair.swapped() for pair in train] if both_orders(config) else []
        parts = ([*train, *swapped], validation)
        encoded = [
            encode_examples(part, tokenizer, config.family, length, regression=request.task.is_regression)
            for part in parts
        ]
        run = Run.create(folder, config, None)
        tokenizer.save(run.tokenizer_path)
        example_fingerprints = _save_examples(run, encoded)
        record = TaskRecord(
            name=request.task.name,
            labels=request.task.labels,
            origin=origin,
            from_scratch=request.from_scratch,
            train_files=tuple(_recorded_path(path) for path in request.train_files),
            train_fingerprints={str(path): _fingerprint(path) for path in request.train_files},
            validation=str(request.validation),
            dev_file=_recorded_path(request.dev_file) if request.dev_file else None,
            num_examples=dict(zip(SPLITS, (len(train), len(validation)), strict=True)),
            example_fingerprints=example_fingerprints,
        )
        record_task(run, request.task, record)
        run.update_manifest(corpus=None, tokenizer_fingerprint=tokenizer.fingerprint, ready=True)
        model = build_classifier(config, request.task.num_outputs)
        if not request.from_scratch:
            missing = load_backbone(model, pretrained.model.state_dict())
            assert not missing, missing
        save_weights(run, {name: tensor.detach() for name, tensor in model.named_parameters()})
    return Run.open(out)


def _config(request: FinetuneRequest, pretrained: TrainedModel, num_examples: int) -> RunConfig:
    config = finetune_config(
        pretrained.config,
        request.task,
        num_examples,
        config_file=request.config_file,
        environment=request.environment,
        assignments=request.assignments,
    )
    tokenizer = pretrained.tokenizer
    if tokenizer.vocab_size > config.model.vocab_size:
        raise DamagedError(
            f"model.vocab_size: the tokenizer has {tokenizer.vocab_size:,} entries, "
            f"the network {config.model.vocab_size:,}"
        )
    return config


def check_unchanged(run: Run) -> None:
    """Check that tokenizer and examples are those that the run was created with, before it resumes.

    Raises:
        DamagedError: they are not; names the field, its old and its new value.
    """
    manifest = run.manifest()
    recorded, current = manifest.tokenizer_fingerprint, load_tokenizer(run.tokenizer_path).fingerprint
    if recorded != current:
        raise DamagedError(f"{run.path}: tokenizer_fingerprint was {recorded} and is now {current}")
    for name, fingerprint in (manifest.task.example_fingerprints if manifest.task else {}).items():
        if _fingerprint(run.path / EXAMPLES / name) != fingerprint:
            raise DamagedError(f"{run.path / EXAMPLES / name}: not what the run was created with")


def _examples(request: FinetuneRequest, log: Callable[[str], None]) -> tuple[list[Example], list[Example]]:
    def read(path: Path) -> list[Example]:
        read_file = read_examples(request.task, path, max_bad=request.max_bad)
        for message in read_file.rejection_messages():
            log(message)
        accepted, rejected = len(read_file.examples), len(read_file.rejected)
        log(f"{path}: {read_file.rows:,} rows, {accepted:,} accepted, {rejected:,} rejected")
        return list(read_file.examples)

    if not request.train_files:
        raise UsageError("--train is missing: the file, or files, to train on")
    train = [example for path in request.train_files for example in read(path)]
    if isinstance(request.validation, Path):
        return train, read(request.validation)
    return split_off_validation(train, request.validation)


def _source(path: Path, temporary: Path) -> tuple[TrainedModel, WeightsOrigin]:
    """The network to start from, and its record for the manifest."""
    if (path / "manifest.json").is_file():
        run = Run.open(path)
        manifest = run.manifest()
        if manifest.task:
            raise UsageError(
                f"{path} is already fine-tuned for {manifest.task.name}; --from takes a pretrained run"
            )
        trained = load_trained_model(run, on_host=True)
        recorded, now = manifest.tokenizer_fingerprint, trained.tokenizer.fingerprint
        if recorded not in (None, now):
            raise DamagedError(f"{path}: tokenizer_fingerprint was {recorded} and is now {now}")
    elif (path / "config.json").is_file():
        name = path.resolve().name
        trained = load_trained_model(Run.open(import_run(path, temporary, name).run), on_host=True)
    else:
        raise MissingError(f"--from {path}: neither a run folder nor one in transformers' format")
    weights = next((trained.run.checkpoints / f"step-{trained.step}").glob("manifest.json"))
    origin = WeightsOrigin(
        run=str(path.resolve()),
        name=trained.config.name,
        step=trained.step,
        weights_fingerprint=_fingerprint(weights),
        tokenizer_fingerprint=trained.tokenizer.fingerprint,
    )
    return trained, origin


def _recorded_path(path: Path) -> str:
    """Absolute, as the run may be used from another folder; a data set in the cache has only a name."""
    return str(path.resolve() if path.exists() else path)


def _save_examples(run: Run, encoded: Sequence[EncodedExamples]) -> dict[str, str | None]:
    folder = run.path / EXAMPLES
    folder.mkdir()
    for split, part in zip(SPLITS, encoded, strict=True):
        part.save(folder / f"{split}.safetensors")
    return {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}


def _fingerprint(path: Path) -> str | None:
    """xxh3-128 of a file; None for a data set, which is not a single file."""
    return hash_file(path).xxh3_128 if path.is_file() else None
