"""Published vocabularies, with the published ids."""

from pathlib import Path

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.byte_bpe import ByteBpe
from fpm_cli.tokenization.greedy import Greedy
from fpm_cli.tokenization.unigram import Unigram
from fpm_cli.tokenization.wordpiece import WordPiece

# What each kind is published as; a folder may hold it under a longer name that ends so.
_FILES: dict[TokenizerKind, str] = {
    "gpt-en": "encoder.json",
    "gpt-zh": ".model",
    "t5-zh": "vocab.txt",
    "bert-en": "vocab.txt",
    "bert-zh": "vocab.txt",
}


def load_published(kind: TokenizerKind, path: Path) -> Tokenizer:
    """Load GPT-2's encoder.json and vocab.bpe, CPM-1's chinese_vocab.model, or a vocab.txt.

    `path` is the file or the folder that holds it. Raises UsageError for t5-en, of which none was
    released, MissingError without the file, DamagedError if it is not such a vocabulary.
    """
    if kind == "t5-en":
        raise UsageError("no t5-en vocabulary was ever published; train one: fpm tokenize train --kind t5-en")
    file = _find(kind, Path(path))
    try:
        match kind:
            case "gpt-en":
                return _load_gpt2(file)
            case "gpt-zh":
                return Unigram(read_whole(file))
            case "t5-zh":
                return Greedy(read_lines(file))
            case "bert-en" | "bert-zh":
                return WordPiece(kind, read_lines(file))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} is not a {kind} vocabulary: {error}") from error


def _find(kind: TokenizerKind, path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingError(f"no published vocabulary at {path}")
    ending = _FILES[kind]
    exact = path / ending
    ending_so = sorted(file for file in path.iterdir() if file.name.endswith(ending))
    candidates = [exact] if exact in ending_so else ending_so
    if not candidates:
        raise MissingError(f"{path} has no file *{ending}, as which {kind} is published")
    if len(candidates) > 1:
        names = ", ".join(file.name for file in candidates)
        raise UsageError(f"{path} has several vocabularies: {names}; name the file")
    return candidates[0]


def _load_gpt2(encoder: Path) -> ByteBpe:
    merges_file = encoder.with_name("vocab.bpe")
    if not merges_file.is_file():
        raise MissingError(f"no {merges_file}, which belongs to {encoder.name}")
    return read_byte_bpe(encoder, merges_file)


def read_byte_bpe(vocabulary_file: Path, merges_file: Path) -> ByteBpe:
    """GPT-2's vocabulary as JSON, and its merges as text with one pair per line.

    Raises:
        ValueError, KeyError, TypeError: they are not such files.
    """
    vocabulary = parse_json(read_whole(vocabulary_file))
    lines = read_lines(merges_file)
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return ByteBpe(vocabulary, [(left, right) for left, right in merges])


def read_lines(file: Path) -> list[str]:
    """The lines of a vocabulary file, with LF or CRLF ends.

    Only the line end is removed, since a piece may consist of an unusual space.
    """
    text = read_whole(file).decode("utf-8").removeprefix("\ufeff")
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
