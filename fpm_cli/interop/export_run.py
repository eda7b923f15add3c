"""Writes a run in transformers' format, after transformers has computed the same outputs and token ids."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from fpm_cli.accounting.inference import export_memory
from fpm_cli.errors import MissingError
from fpm_cli.files import new_folder, replace_text
from fpm_cli.inference.trained_model import TrainedModel, load_trained_classifier, load_trained_model
from fpm_cli.interop import t5
from fpm_cli.interop.architectures import ARCHITECTURES, load_reference_model, load_transformers
from fpm_cli.interop.check_tokenizer import check_tokenizer
from fpm_cli.interop.classification import classification_architecture, without_head_bias
from fpm_cli.interop.compare_outputs import OutputComparison, compare_classifiers, compare_outputs
from fpm_cli.interop.export_tokenizer import write_tokenizer
from fpm_cli.interop.model_card import model_card
from fpm_cli.interop.sequence_template import sequence_template
from fpm_cli.interop.weight_mapping import Architecture, to_transformers
from fpm_cli.models.classifier import Classifier
from fpm_cli.progress import StageReport, ignore_stage_report
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer

NUM_STEPS = 4  # that an export reports


@dataclass(frozen=True)
class ExportResult:
    """What an export contains and how it was checked."""

    class_name: str  # in transformers
    comparison: OutputComparison
    tokenizer: str  # a sentence: which tokenizer files there are, and whether their ids are exact


def export_run(run: Run, out: Path, report: StageReport = ignore_stage_report) -> ExportResult:
    """Write config.json, model.safetensors, README.md and tokenizer files into the new folder `out`.

    A fine-tuned run becomes a `...ForSequenceClassification` with the weights of its best checkpoint.

    Raises:
        UsageError: transformers has no such network, or `out` is already there.
        MissingError: transformers is not installed, or the run has no checkpoint.
        FpmError: the reloaded network or tokenizer computes something else; nothing is written.
        OutOfMemoryError: the host has no room for two copies of the weights in float32.
    """
    report("loading the weights", 0, NUM_STEPS)
    load_transformers()
    task = run.manifest().task
    load = load_trained_classifier if task else load_trained_model
    trained = load(run, on_host=True, plan=lambda config, num_parameters, e: export_memory(num_parameters))
    if task:
        architecture = classification_architecture(trained.config, task.labels)
    else:
        architecture = ARCHITECTURES[trained.config.family](trained.config.model)
    tokenizer = _tokenizer(trained)
    with new_folder(out) as folder:
        folder.mkdir(parents=True)
        report("writing the weights", 1, NUM_STEPS)
        _write_weights(trained, architecture, folder)
        _write_json(folder / "config.json", _config(architecture, tokenizer))
        if architecture.config["model_type"] == t5.MODEL_TYPE:
            shutil.copyfile(Path(t5.__file__).with_name(t5.MODEL_CODE), folder / t5.MODEL_CODE)
        report("writing the tokenizer and comparing its ids", 2, NUM_STEPS)
        tokenizer_note = _write_tokenizer(trained, tokenizer, folder, classifies=task is not None)
        report("comparing logits with transformers", 3, NUM_STEPS)
        comparison = _compare(trained, load_reference_model(architecture, folder), tokenizer)
        card = model_card(trained, architecture.class_name, comparison, tokenizer_note)
        replace_text(folder / "README.md", card)
    report("comparing logits with transformers", NUM_STEPS, NUM_STEPS)
    return ExportResult(architecture.class_name, comparison, tokenizer_note)


def _tokenizer(trained: TrainedModel) -> Tokenizer | None:
    """None for imported weights that came without one."""
    try:
        return trained.tokenizer
    except MissingError:
        return None


def _write_weights(trained: TrainedModel, architecture: Architecture, folder: Path) -> None:
    state = {name: parameter.detach() for name, parameter in trained.model.named_parameters()}
    if isinstance(trained.model, Classifier):
        state = without_head_bias(trained.config, state)
    weights = to_transformers(architecture.mappings, state)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(
    trained: TrainedModel, tokenizer: Tokenizer | None, folder: Path, *, classifies: bool
) -> str:
    if tokenizer is None:
        return "none: the run has none"
    config = trained.config
    template = sequence_template(tokenizer, config.family, classifies=classifies)
    max_length = config.model.max_positions or config.train.sequence_length
    note = write_tokenizer(tokenizer, folder, template, max_length)
    check_tokenizer(folder, tokenizer, template, max_length)
    return note


def _compare(trained: TrainedModel, reference: nn.Module, tokenizer: Tokenizer | None) -> OutputComparison:
    config, model = trained.config, trained.model
    if not isinstance(model, Classifier):
        return compare_outputs(config.model, model, reference, trained.untrained_heads)
    special = tokenizer.special if tokenizer else SpecialTokens()
    last_token = special.eod if special.eod is not None else special.sep
    assert last_token is not None, "every fine-tuned run has a tokenizer with <eod> or [SEP]"
    return compare_classifiers(config, model, reference, last_token, special.pad)


def _config(architecture: Architecture, tokenizer: Tokenizer | None) -> dict[str, Any]:
    special = tokenizer.special if tokenizer else SpecialTokens()
    bos = special.eod if architecture.config["model_type"] == "gpt2" else special.bos
    ids = {"pad_token_id": special.pad, "bos_token_id": bos, "eos_token_id": special.eod}
    if architecture.config.get("is_encoder_decoder"):
        ids["decoder_start_token_id"] = special.bos
    return {
        "architectures": [architecture.class_name],
        **architecture.config,
        **ids,
        "dtype": "float32",
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    replace_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
