"""Reads the tokenizer beside weights in transformers' format as an fpm tokenizer with the same ids."""

from pathlib import Path
from typing import Any

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import DamagedError
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.interop.export_tokenizer import EXACT_TOKENIZER
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.byte_bpe import ByteBpe
from fpm_cli.tokenization.cjk import is_cjk
from fpm_cli.tokenization.published import read_byte_bpe, read_lines
from fpm_cli.tokenization.registry import load_tokenizer
from fpm_cli.tokenization.wordpiece import WordPiece

# In Chinese BERT vocabularies a third or more of the pieces are Chinese; elsewhere far fewer.
CHINESE_SHARE = 0.2


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """From fpm's own folder, tokenizer.json, vocab.txt, or vocab.json and merges.txt; None for others.

    Supported are byte-level BPE (GPT-2) and WordPiece (BERT), not T5's SentencePiece model.

    Raises:
        DamagedError: a file does not hold what its name says.
    """
    if (folder / EXACT_TOKENIZER).is_dir():
        return load_tokenizer(folder / EXACT_TOKENIZER)
    try:
        if (folder / "tokenizer.json").is_file():
            return _from_tokenizer_json(_read_json(folder / "tokenizer.json"))
        if (folder / "vocab.txt").is_file():
            return _word_piece(read_lines(folder / "vocab.txt"), _lower_case(folder))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return read_byte_bpe(folder / "vocab.json", folder / "merges.txt")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder}: its tokenizer is not as transformers writes it: {error}") from error
    return None


def _from_tokenizer_json(document: dict[str, Any]) -> Tokenizer | None:
    model, before = document["model"], document.get("pre_tokenizer") or {}
    if model.get("type") == "WordPiece" and before.get("type") == "BertPreTokenizer":
        pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return _word_piece(pieces, bool(document["normalizer"]["lowercase"]))
    if model.get("type") == "BPE" and before.get("type") == "ByteLevel":
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        return ByteBpe(model["vocab"], [(left, right) for left, right in merges])
    return None


def _word_piece(pieces: list[str], lower_case: bool) -> WordPiece:
    chinese = sum(is_cjk(piece.removeprefix("##")[:1] or " ") for piece in pieces) / len(pieces)
    kind: TokenizerKind = "bert-zh" if chinese > CHINESE_SHARE else "bert-en"
    return WordPiece(kind, pieces, lower_case)


def _lower_case(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return bool(_read_json(path).get("do_lower_case", True)) if path.is_file() else True


def _read_json(path: Path) -> dict[str, Any]:
    document = parse_json(read_whole(path))
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is not an object")
    return document
