"""Writes the tokenizer of an export: fpm's own files, and transformers' where those give the same ids."""

import json
from pathlib import Path

from fpm_cli.files import replace_text
from fpm_cli.tokenization.base import Tokenizer

EXACT_TOKENIZER = "fpm_tokenizer"  # `fpm import` and `load_tokenizer` read it
_NAMES = ("pad", "unk", "bos", "eos", "mask", "cls", "sep")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> str:
    """Write the files into `folder`; returns a sentence that says whether their ids are exact."""
    tokenizer.save(folder / EXACT_TOKENIZER)
    if tokenizer.hf_inexact:
        return f"no tokenizer.json: {tokenizer.hf_inexact}; `{EXACT_TOKENIZER}/` is the exact one, for fpm"
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers.processors import TemplateProcessing

    hf, special = HfTokenizer.from_str(tokenizer.model_files()["tokenizer.json"].decode()), tokenizer.special
    tokens = {
        f"{name}_token": tokenizer.tokens([value])[0]
        for name in _NAMES
        if (value := getattr(special, name)) is not None
    }
    if special.cls is not None and special.sep is not None:
        cls, sep = tokens["cls_token"], tokens["sep_token"]
        hf.post_processor = TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(cls, special.cls), (sep, special.sep)],
        )
    replace_text(folder / "tokenizer.json", hf.to_str(pretty=True))
    document = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    replace_text(folder / "tokenizer_config.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return (
        "tokenizer.json gives the same ids without special tokens, except for text that is itself the name "
        "of a special token, which fpm never takes for one"
    )
