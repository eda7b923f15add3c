"""fpm's tokenizers for transformers where no tokenizer.json gives the same ids.

fpm (https://pypi.org/project/fpm-depth) writes this file beside exported weights; transformers runs it only
with `trust_remote_code=True`. It needs jieba and, for gpt-zh, sentencepiece; for t5-en it needs nltk. Each
kind first cuts a text into words, which tokenizer.json cannot express:

- gpt-zh: jieba's words, U+2582 for a space and U+2583 for a newline, then a SentencePiece unigram model
- t5-zh: full-width to half-width characters, jieba's words, the same marks, then the longest matches
- t5-en: nltk's words, then byte-pair merges; marks where spaces are not as the pieces imply
- bert-zh: jieba's words set apart, then BERT's WordPiece
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedTokenizer

SPACE, NEWLINE, JOIN = "\u2582", "\u2583", "\u2581"
TO_MARKS = str.maketrans({" ": SPACE, "\n": NEWLINE})
FROM_MARKS = str.maketrans({SPACE: " ", NEWLINE: "\n"})

MAX_WORD = 200  # t5-zh: characters; a longer word is one <unk>
KEPT_FULL_WIDTH = "，。！（）？、；："
HALF_WIDTH = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in KEPT_FULL_WIDTH},
    0x3000: 0x20,
}

MAX_RUN = 1000  # t5-en: characters without white space that nltk sees at once
OPENING = frozenset("([{<$#£€@-–—/\\_‘“«¿¡")  # no space is implied after these
CLOSING = frozenset(")]}>.,;:!?%'-–—/\\_’”»…")  # nor before these
ENGLISH_NORMAL = {
    **{ord(c): " " for c in map(chr, range(0x3001)) if c.isspace() and c != "\n"},
    ord(SPACE): " ",
    ord(NEWLINE): "\n",
    ord(JOIN): "_",
}
GAP_AND_RUN = re.compile(r"([ \n]*)([^ \n]*)")


class FpmTokenizer(PreTrainedTokenizer):  # type: ignore[misc]
    """One of four kinds, which `fpm_vocab.json` names."""

    vocab_files_names: ClassVar = {"vocab_file": "fpm_vocab.json", "model_file": "sentencepiece.model"}

    def __init__(self, vocab_file: str, model_file: str | None = None, **kwargs: Any) -> None:
        """Load the vocabulary; `model_file` is there for gpt-zh only."""
        self.vocab_file, self.model_file = vocab_file, model_file
        document = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self.kind: str = document["kind"]
        self.pieces: list[str] = document["pieces"]
        self.ids = {piece: index for index, piece in enumerate(self.pieces)}
        self.options: dict[str, Any] = document["options"]
        self.longest_piece = max(map(len, self.pieces))
        if self.kind == "gpt-zh":
            import sentencepiece

            self.unigram = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        elif self.kind == "t5-en":
            from nltk.tokenize.destructive import NLTKWordTokenizer
            from tokenizers import models

            merges = [(left, right) for left, right in document["merges"]]
            self.bpe = models.BPE(self.ids, merges, unk_token="<unk>", fuse_unk=False)
            self.words = NLTKWordTokenizer()
        elif self.kind == "bert-zh":
            self.word_piece = _word_piece(self.ids, lower_case=self.options["lower_case"])
        self.before: list[int] = document["before"]  # of the first text
        self.after: list[int] = document["after"]  # of each text
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """The number of pieces."""
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        """Each piece's id."""
        return dict(self.ids)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        if self.kind == "gpt-zh":
            return list(self.unigram.encode(" ".join(jieba_words(text.translate(TO_MARKS))), out_type=str))
        if self.kind == "t5-zh":
            text = text.translate(HALF_WIDTH) if self.options["half_width"] else text
            words = jieba_words(text)
            return [piece for word in words for piece in self._longest_matches(word.translate(TO_MARKS))]
        if self.kind == "t5-en":
            return list(self._english_pieces(text.translate(ENGLISH_NORMAL)))
        return list(self.word_piece.encode(_spaced(text), add_special_tokens=False).tokens)

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids.get(token, self.ids[str(self.unk_token)])

    def _convert_id_to_token(self, index: int) -> str:
        return self.pieces[index]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A text or a pair with the special tokens with which the network was trained."""
        second = [] if token_ids_1 is None else [*token_ids_1, *self.after]
        return [*self.before, *token_ids_0, *self.after, *second]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token of a sequence, 0 for the others."""
        if already_has_special_tokens:
            return [int(token in self.all_special_ids) for token in token_ids_0]
        ones, zeros = [1] * len(self.after), [0] * len(token_ids_0)
        second = [] if token_ids_1 is None else [*([0] * len(token_ids_1)), *ones]
        return [*([1] * len(self.before)), *zeros, *ones, *second]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces, as fpm decodes them."""
        if self.kind == "gpt-zh":
            unknown = str(self.unk_token)
            text = "".join("\u2047" if token == unknown else token for token in tokens)
            return text.replace("\u2581", "").translate(FROM_MARKS)
        if self.kind == "t5-zh":
            return "".join(tokens).translate(FROM_MARKS)
        if self.kind == "t5-en":
            return _english_text(tokens)
        return _joined_words(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Copy the vocabulary's files."""
        written = []
        for source in (self.vocab_file, self.model_file):
            if source is not None:
                prefix = f"{filename_prefix}-" if filename_prefix else ""
                target = Path(save_directory) / f"{prefix}{Path(source).name}"
                if target.resolve() != Path(source).resolve():
                    shutil.copyfile(source, target)
                written.append(str(target))
        return tuple(written)

    def _longest_matches(self, word: str) -> Iterator[str]:
        if len(word) > MAX_WORD:
            yield str(self.unk_token)
            return
        start = 0
        while start < len(word):
            ends = range(min(len(word), start + self.longest_piece), start, -1)
            end = next((end for end in ends if word[start:end] in self.ids), start + 1)
            yield word[start:end]
            start = end

    def _english_pieces(self, text: str) -> Iterator[str]:
        before = ""
        for gap, run in GAP_AND_RUN.findall(text):
            pieces = list(self._pieces_of_run(run))
            implied = " " if before and pieces and _space_implied(before, pieces[0]) else ""
            if gap and gap != implied:
                yield from gap.translate(TO_MARKS)
            elif gap != implied:
                yield JOIN
            yield from pieces
            before = pieces[-1] if pieces else before

    def _pieces_of_run(self, run: str) -> Iterator[str]:
        before = ""
        for begin in range(0, len(run), MAX_RUN):
            for word in self._english_words(run[begin : begin + MAX_RUN]):
                for token in self.bpe.tokenize(word):
                    if before and _space_implied(before, token.value):
                        yield JOIN
                    yield token.value
                    before = token.value

    def _english_words(self, run: str) -> Iterator[str]:
        position = 0
        for word in self.words.tokenize(run):
            if word in ("``", "''") and run.startswith('"', position):
                word = '"'  # nltk writes straight quotes as TeX does
            if not run.startswith(word, position):
                break
            yield word
            position += len(word)
        if position < len(run):
            yield run[position:]


def jieba_words(text: str) -> list[str]:
    """jieba's words, which join to the text."""
    import jieba

    jieba.setLogLevel(60)
    return list(jieba.cut(text))


def _space_implied(left: str, right: str) -> bool:
    return left[-1] not in OPENING and right[0] not in CLOSING and right != "n't"


def _english_text(tokens: list[str]) -> str:
    parts: list[str] = []
    before = ""
    for token in tokens:
        if token in (SPACE, NEWLINE, JOIN):
            parts.append("" if token == JOIN else token.translate(FROM_MARKS))
            before = ""
        else:
            parts.append(" " + token if before and _space_implied(before, token) else token)
            before = token
    return "".join(parts)


def _spaced(text: str) -> str:
    """The text with a space wherever one of jieba's words ends beside a Chinese character."""
    parts: list[str] = []
    for word in jieba_words(text):
        if parts and (_is_cjk(parts[-1][-1]) or _is_cjk(word[0])):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)


def _joined_words(tokens: list[str]) -> str:
    """Words with a space between, none beside a Chinese character."""
    words: list[str] = []
    for token in tokens:
        if token.startswith("##") and words:
            words[-1] += token.removeprefix("##")
        else:
            words.append(token)
    parts: list[str] = []
    for word in words:
        if parts and not (_is_cjk(parts[-1][-1]) or _is_cjk(word[0])):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)


def _word_piece(ids: dict[str, int], *, lower_case: bool) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case, handle_chinese_chars=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _is_cjk(character: str) -> bool:
    """Whether BERT's basic tokenisation sets the character apart (google-research/bert, tokenization.py)."""
    code = ord(character)
    return any(
        first <= code <= last
        for first, last in (
            *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F)),
            *((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
        )
    )
