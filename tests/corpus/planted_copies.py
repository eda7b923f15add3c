"""Lines of the packaged texts, and the ways in which a copy of one may be written."""

from importlib.resources import files

from fpm_cli.corpus.contamination import MAX_NGRAM, token_hashes

SAMPLE = files("fpm_cli.corpus") / "sample"
LINES = {
    language: [
        line
        for line in (SAMPLE / f"{language}.txt").read_text(encoding="utf-8").split("\n")
        if len(token_hashes(line)) >= 2 * MAX_NGRAM
    ]
    for language in ("en", "zh")
}
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def tokens_of(text: str, first: int, count: int) -> str:
    """A part of a text that has so many tokens, by trial: tokens are words or Chinese characters."""
    begin = 0
    while len(token_hashes(text[:begin])) < first:
        begin += 1
    end = begin
    while len(token_hashes(text[begin:end])) < count:
        end += 1
    return text[begin:end]


COPIES = {
    "whole": lambda text: text,
    "partial": lambda text: tokens_of(text, 4, MAX_NGRAM + 2),
    "re-spaced": lambda text: "  ".join(text.split(" ")) if text.isascii() else " ".join(text),
    "full-width": lambda text: text.translate(FULL_WIDTH),
    "upper case": lambda text: text.upper(),
    "other punctuation": lambda text: text.replace(",", " --").replace("，", "、").replace(".", "!"),
}
