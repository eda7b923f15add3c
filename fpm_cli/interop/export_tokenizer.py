"""Writes the tokenizer of an export: fpm's own files, and transformers' where those give the same ids."""

import json
from pathlib import Path
from typing import Any

from fpm_cli.files import replace_text
from fpm_cli.interop.sequence_template import SequenceTemplate
from fpm_cli.tokenization.base import Tokenizer

EXACT_TOKENIZER = "fpm_tokenizer"  # `fpm import` and `load_tokenizer` read it
_NAMES = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, template: SequenceTemplate, max_length: int) -> str:
    """Write the files into `folder`; returns a sentence that says whether their ids are exact.

    Args:
        tokenizer: of the run.
        folder: the export.
        template: the special tokens around a text and a pair.
        max_length: the longest sequence that the network reads, in tokens.
    """
    tokenizer.save(folder / EXACT_TOKENIZER)
    if tokenizer.hf_inexact:
        return f"no tokenizer.json: {tokenizer.hf_inexact}; `{EXACT_TOKENIZER}/` is the exact one, for fpm"
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers.processors import TemplateProcessing

    hf = HfTokenizer.from_str(tokenizer.model_files()["tokenizer.json"].decode())
    if template.special_tokens:
        hf.post_processor = TemplateProcessing(
            single=template.single, pair=template.pair, special_tokens=list(template.special_tokens.items())
        )
    replace_text(folder / "tokenizer.json", hf.to_str(pretty=True))
    document = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokenizer_config(tokenizer, template, max_length),
    }
    replace_text(folder / "tokenizer_config.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return (
        "tokenizer.json gives the same ids, except where a text contains the name of a special token, which "
        "fpm reads as ordinary text"
    )


def tokenizer_config(tokenizer: Tokenizer, template: SequenceTemplate, max_length: int) -> dict[str, Any]:
    """What tokenizer_config.json says of every kind of tokenizer."""
    inputs = ["input_ids", *(["token_type_ids"] if template.has_token_types else []), "attention_mask"]
    special = {
        f"{name}_token": tokenizer.tokens([token])[0]
        for name in _NAMES
        if (token := getattr(tokenizer.special, name)) is not None
    }
    return {
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "model_input_names": inputs,
        "padding_side": "right",
        **special,
    }
