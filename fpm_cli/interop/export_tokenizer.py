"""Writes the tokenizer of an export: fpm's own files, and transformers' where those give the same ids."""

import json
import shutil
from pathlib import Path
from typing import Any

from fpm_cli.files import replace_text
from fpm_cli.interop.sequence_template import SequenceTemplate
from fpm_cli.tokenization.base import Tokenizer

EXACT_TOKENIZER = "fpm_tokenizer"  # `fpm import` and `load_tokenizer` read it
CODE, CLASS_NAME = "tokenization_fpm.py", "FpmTokenizer"  # for kinds without an exact tokenizer.json
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
    config = tokenizer_config(tokenizer, template, max_length)
    if tokenizer.hf_inexact is None:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        _write_tokenizer_json(tokenizer, folder, template)
        note = (
            "tokenizer.json gives the same ids, except where a text contains the name of a special token, "
            "which fpm reads as ordinary text"
        )
    else:
        config |= {
            "tokenizer_class": CLASS_NAME,
            "auto_map": {"AutoTokenizer": [f"{Path(CODE).stem}.{CLASS_NAME}", None]},
            "split_special_tokens": tokenizer.special.mask is None or not template.has_token_types,
        }
        _write_vocabulary(tokenizer, folder, template)
        note = (
            f"`{CODE}` gives the same ids with trust_remote_code=True "
            f"(no tokenizer.json: {tokenizer.hf_inexact})"
        )
    replace_text(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return note


def _write_tokenizer_json(tokenizer: Tokenizer, folder: Path, template: SequenceTemplate) -> None:
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers.processors import TemplateProcessing

    hf = HfTokenizer.from_str(tokenizer.model_files()["tokenizer.json"].decode())
    if template.special_tokens:
        hf.post_processor = TemplateProcessing(
            single=template.single, pair=template.pair, special_tokens=list(template.special_tokens.items())
        )
    replace_text(folder / "tokenizer.json", hf.to_str(pretty=True))


def _write_vocabulary(tokenizer: Tokenizer, folder: Path, template: SequenceTemplate) -> None:
    """The files that `tokenization_fpm.FpmTokenizer` reads, and that module."""
    files = tokenizer.model_files()
    document: dict[str, Any] = {
        "kind": tokenizer.kind,
        "options": tokenizer.options(),
        "before": [token for _, token in template.before],
        "after": [token for _, token in template.after],
        "pieces": tokenizer.tokens(range(tokenizer.vocab_size)),
    }
    if "bpe.json" in files:
        document["merges"] = json.loads(files["bpe.json"])["merges"]
    replace_text(folder / "fpm_vocab.json", json.dumps(document, ensure_ascii=False) + "\n")
    if (model := files.get("sentencepiece.model")) is not None:
        (folder / "sentencepiece.model").write_bytes(model)
    shutil.copyfile(Path(__file__).with_name(CODE), folder / CODE)


def tokenizer_config(tokenizer: Tokenizer, template: SequenceTemplate, max_length: int) -> dict[str, Any]:
    """What tokenizer_config.json says of every kind of tokenizer."""
    names = {name: getattr(tokenizer.special, name) for name in _NAMES}
    if tokenizer.kind in ("gpt-en", "gpt-zh"):  # `<eod>` is all that a GPT sees between two documents
        names |= {"bos": tokenizer.special.eod, "eos": tokenizer.special.eod}
    inputs = ["input_ids", *(["token_type_ids"] if template.has_token_types else []), "attention_mask"]
    special = {
        f"{name}_token": tokenizer.tokens([token])[0] for name, token in names.items() if token is not None
    }
    return {
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "model_input_names": inputs,
        "padding_side": "right",
        **special,
    }
