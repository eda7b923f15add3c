"""A run's weights in transformers' format, kept only if transformers computes the same with them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fpm_cli.errors import MissingError
from fpm_cli.files import new_folder, replace_text
from fpm_cli.inference.trained import Trained, load_trained
from fpm_cli.interop import t5
from fpm_cli.interop.compare import Agreement, compare
from fpm_cli.interop.counterpart import Counterpart, to_theirs
from fpm_cli.interop.export_tokenizer import write_tokenizer
from fpm_cli.interop.families import COUNTERPARTS, load_counterpart, load_transformers
from fpm_cli.interop.model_card import model_card
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer


@dataclass(frozen=True)
class Exported:
    """What an export holds, and how exactly."""

    architecture: str
    agreement: Agreement
    tokenizer: str  # in words: exact, or why there is none


def export_run(run: Run, out: Path) -> Exported:
    """Write config.json, model.safetensors, README.md and tokenizer files into the new folder `out`.

    Raises:
        UsageError: transformers has no such network, or `out` is already there.
        MissingError: transformers is not installed, or the run has no checkpoint.
        FpmError: the reloaded network computes something else; nothing is kept.
    """
    load_transformers()
    trained = load_trained(run)
    model = trained.model.cpu()
    counterpart = COUNTERPARTS[trained.config.family](trained.config.model)
    tokenizer = _tokenizer(trained)
    with new_folder(out) as folder:
        folder.mkdir(parents=True)
        weights = to_theirs(counterpart.pairs, dict(model.named_parameters()))
        weights = {name: tensor.detach() for name, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", _config(counterpart, tokenizer))
        if counterpart.config["model_type"] == t5.MODEL_TYPE:
            shutil.copyfile(Path(t5.__file__).with_name(t5.CODE), folder / t5.CODE)
        said = write_tokenizer(tokenizer, folder) if tokenizer else "none: the run has none"
        agreement = compare(
            trained.config.model, model, load_counterpart(counterpart, folder), trained.untrained
        )
        card = model_card(trained, counterpart.architecture, agreement, said)
        replace_text(folder / "README.md", card)
    return Exported(counterpart.architecture, agreement, said)


def _tokenizer(trained: Trained) -> Tokenizer | None:
    """None for imported weights that came without one."""
    try:
        return trained.tokenizer
    except MissingError:
        return None


def _config(counterpart: Counterpart, tokenizer: Tokenizer | None) -> dict[str, Any]:
    special = tokenizer.special if tokenizer else SpecialTokens()
    ids = {"pad_token_id": special.pad, "bos_token_id": special.bos, "eos_token_id": special.eod}
    if counterpart.config.get("is_encoder_decoder"):
        ids["decoder_start_token_id"] = special.bos
    return {
        "architectures": [counterpart.architecture],
        **counterpart.config,
        **ids,
        "dtype": "float32",
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    replace_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
