"""Writes a run's weights in transformers' format, after transformers has computed the same outputs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fpm_cli.errors import MissingError
from fpm_cli.files import new_folder, replace_text
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.interop import t5
from fpm_cli.interop.architectures import ARCHITECTURES, load_reference_model, load_transformers
from fpm_cli.interop.compare_outputs import OutputComparison, compare_outputs
from fpm_cli.interop.export_tokenizer import write_tokenizer
from fpm_cli.interop.model_card import model_card
from fpm_cli.interop.weight_mapping import Architecture, to_transformers
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer


@dataclass(frozen=True)
class ExportResult:
    """What an export contains and how it was checked."""

    class_name: str  # in transformers
    comparison: OutputComparison
    tokenizer: str  # a sentence: which tokenizer files there are, and whether their ids are exact


def export_run(run: Run, out: Path) -> ExportResult:
    """Write config.json, model.safetensors, README.md and tokenizer files into the new folder `out`.

    Raises:
        UsageError: transformers has no such network, or `out` is already there.
        MissingError: transformers is not installed, or the run has no checkpoint.
        FpmError: the reloaded network computes something else; nothing is written.
    """
    load_transformers()
    trained = load_trained_model(run)
    model = trained.model.cpu()
    architecture = ARCHITECTURES[trained.config.family](trained.config.model)
    tokenizer = _tokenizer(trained)
    with new_folder(out) as folder:
        folder.mkdir(parents=True)
        weights = to_transformers(architecture.mappings, dict(model.named_parameters()))
        weights = {name: tensor.detach() for name, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", _config(architecture, tokenizer))
        if architecture.config["model_type"] == t5.MODEL_TYPE:
            shutil.copyfile(Path(t5.__file__).with_name(t5.MODEL_CODE), folder / t5.MODEL_CODE)
        tokenizer_note = write_tokenizer(tokenizer, folder) if tokenizer else "none: the run has none"
        reference = load_reference_model(architecture, folder)
        comparison = compare_outputs(trained.config.model, model, reference, trained.untrained_heads)
        card = model_card(trained, architecture.class_name, comparison, tokenizer_note)
        replace_text(folder / "README.md", card)
    return ExportResult(architecture.class_name, comparison, tokenizer_note)


def _tokenizer(trained: TrainedModel) -> Tokenizer | None:
    """None for imported weights that came without one."""
    try:
        return trained.tokenizer
    except MissingError:
        return None


def _config(architecture: Architecture, tokenizer: Tokenizer | None) -> dict[str, Any]:
    special = tokenizer.special if tokenizer else SpecialTokens()
    ids = {"pad_token_id": special.pad, "bos_token_id": special.bos, "eos_token_id": special.eod}
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
