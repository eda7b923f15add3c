"""Checks the tokenizer of an export through transformers' `AutoTokenizer`: ids, pairs and truncation."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fpm_cli.config.schema import Language
from fpm_cli.corpus.samples import sample_text
from fpm_cli.errors import FpmError
from fpm_cli.interop.architectures import load_transformers
from fpm_cli.interop.sequence_template import SequenceTemplate
from fpm_cli.tokenization.base import Tokenizer

NUM_LINES = 200  # of the packaged text of each language
_TEXTS = (
    "Hello, world! It's 3.14 o'clock; they'll, we've DON'T\tre-enter\r\n\n  twice.  ",
    "naïve Café ÅNGSTRÖM ﬁne İstanbul ΣΊΣΥΦΟΣ straße e\u0301",
    "世界，你好！繁體中文 日本語テキスト 한국어 x中y文z ＡＢＣ１２３　全角",
    "👩‍👩‍👧 🇨🇳 \u00ad\u200b\u2028 𠀀 supercalifragilisticexpialidocious",
)


def check_tokenizer(folder: Path, tokenizer: Tokenizer, template: SequenceTemplate, max_length: int) -> None:
    """Load the tokenizer in `folder` as a user would, and compare it with fpm's.

    Raises:
        FpmError: a text or a pair has other ids or token types, or a long text is not truncated to what the
            network reads.
    """
    theirs = _load(folder, trust_remote_code=tokenizer.hf_inexact is not None)
    texts = [*_TEXTS, *_sample_lines("en"), *_sample_lines("zh")]
    ids = tokenizer.encode_batch(texts)
    for text, expected in zip(texts, ids, strict=True):
        _require(theirs(text, add_special_tokens=False)["input_ids"] == expected, folder, text)
    for first, second in ((0, 2), (4, len(texts) - 1)):
        encoded = theirs(texts[first], texts[second])
        pair_ids, types = template.build(ids[first], ids[second])
        _require(encoded["input_ids"] == pair_ids, folder, f"{texts[first]} / {texts[second]}")
        if template.has_token_types:
            _require(encoded.get("token_type_ids") == types, folder, "the token types of a pair")
    long_text = "\n".join(texts)
    _require(len(theirs(long_text, truncation=True)["input_ids"]) == max_length, folder, "a long text")


def _load(folder: Path, *, trust_remote_code: bool) -> Any:
    """Load with `AutoTokenizer`; the only code that it may run is what the export has just written."""
    library = load_transformers()
    modules = library.dynamic_module_utils
    cache, loaded = modules.HF_MODULES_CACHE, set(sys.modules)
    with tempfile.TemporaryDirectory() as temporary:
        modules.HF_MODULES_CACHE = temporary  # instead of the user's
        try:
            return library.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:
            raise FpmError(f"transformers cannot load the tokenizer in {folder}: {error}") from error
        finally:
            modules.HF_MODULES_CACHE = cache
            if temporary in sys.path:
                sys.path.remove(temporary)
            for name in set(sys.modules) - loaded:
                if name.startswith("transformers_modules"):  # whose file is gone
                    del sys.modules[name]


def _sample_lines(language: Language) -> Sequence[str]:
    lines = sample_text(language).read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line.strip()][:NUM_LINES]


def _require(holds: bool, folder: Path, text: str) -> None:
    if not holds:
        raise FpmError(
            f"{folder}: transformers encodes {text[:60]!r} otherwise than fpm; nothing was written"
        )
