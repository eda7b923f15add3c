"""Exported tokenizers of all six kinds give fpm's ids through `AutoTokenizer`, on every line."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.config.schema import Family, TokenizerKind
from fpm_cli.corpus.samples import sample_text
from fpm_cli.errors import FpmError
from fpm_cli.interop.check_tokenizer import check_tokenizer
from fpm_cli.interop.export_tokenizer import write_tokenizer
from fpm_cli.interop.sequence_template import sequence_template
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import train_tokenizer

TEXTS = {language: sample_text(language).read_text(encoding="utf-8") for language in ("en", "zh")}
CASES: list[tuple[TokenizerKind, Family, bool]] = [
    ("gpt-en", "gpt", False),
    ("gpt-zh", "gpt", False),
    ("t5-zh", "encdec", False),
    ("t5-en", "encdec", False),
    ("bert-en", "bert", False),
    ("bert-zh", "bert", False),
    ("bert-zh", "bert", True),
]
ODD = (
    "",
    " ",
    "\n\n",
    "  two  spaces\tand a tab \r\n",
    'RAID-0 AT&T C++ 3.14% don\'t "quoted" (x) [y]',
    "全角ＡＢＣ１２３，。！\u3000空格",
    "\u2581 \u2582 \u2583 ▁",
    "x" * 250 + " " + "长" * 250,
    "👩‍👩‍👧 𠀀 e\u0301 \u00ad\u200b",
)


@cache
def trained(kind: TokenizerKind, whole_words: bool) -> Tokenizer:
    texts = TEXTS["zh" if kind.endswith("zh") else "en"].split("\n\n")
    return train_tokenizer(kind, texts, 1500, True, whole_words=whole_words)


def exported(kind: TokenizerKind, family: Family, whole_words: bool, folder: Path) -> tuple[Tokenizer, Any]:
    """A small tokenizer, and what a user of transformers loads."""
    import transformers

    tokenizer = trained(kind, whole_words)
    folder.mkdir()
    template = sequence_template(tokenizer, family, classifies=False)
    write_tokenizer(tokenizer, folder, template, 128)
    check_tokenizer(folder, tokenizer, template, 128)
    return tokenizer, transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize(("kind", "family", "whole_words"), CASES)
def test_every_line_has_the_same_ids(
    kind: TokenizerKind, family: Family, whole_words: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    ours, theirs = exported(kind, family, whole_words, tmp_path / "out")
    lines = [line for text in TEXTS.values() for line in text.split("\n")]
    texts = [*lines, *ODD, *(text[:5000] for text in TEXTS.values())]
    ids = theirs(texts, add_special_tokens=False)["input_ids"]
    for text, found, expected in zip(texts, ids, ours.encode_batch(texts), strict=True):
        assert found == expected, text
    assert len(theirs) == ours.vocab_size
    if ours.hf_inexact:
        text = TEXTS["zh" if kind.endswith("zh") else "en"][:2000]
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))
        theirs.save_pretrained(tmp_path / "saved")
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved", trust_remote_code=True)
        assert again(text)["input_ids"] == theirs(text)["input_ids"]
        with pytest.raises(ValueError, match="trust_remote_code"):
            transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)


@pytest.mark.parametrize(("kind", "family", "whole_words"), CASES)
def test_a_classifier_s_pair_is_what_fine_tuning_reads(
    kind: TokenizerKind, family: Family, whole_words: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    language = "zh" if kind.endswith("zh") else "en"
    ours = trained(kind, whole_words)
    template = sequence_template(ours, family, classifies=True)
    (tmp_path / "out").mkdir()
    write_tokenizer(ours, tmp_path / "out", template, 40)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    first, second = ("却说曹操", "玄德曰") if language == "zh" else ("It is a truth", "in want of a wife")
    ends = ours.special.sep if family == "bert" else ours.special.eod
    begin = [ours.special.cls] if family == "bert" else []
    expected = [*begin, *ours.encode(first), ends, *ours.encode(second), ends]
    pair = theirs(first, second)
    assert pair["input_ids"] == expected
    if family == "bert":
        ones = len(ours.encode(second)) + 1
        assert pair["token_type_ids"] == [0] * (len(expected) - ones) + [1] * ones


def test_a_tokenizer_that_gives_other_ids_is_refused(tmp_path: Path) -> None:
    ours = trained("bert-en", whole_words=False)
    template = sequence_template(ours, "bert", classifies=False)
    write_tokenizer(ours, tmp_path, template, 32)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(FpmError, match="otherwise than fpm"):
        check_tokenizer(tmp_path, ours, template, 32)
