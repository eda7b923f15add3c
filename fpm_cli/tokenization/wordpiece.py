"""`bert-en` and `bert-zh`: BERT's basic tokenisation and WordPiece.

BERT sets every Chinese character apart. With `whole_words` jieba's words are kept together instead, and
pieces are trained within them, as within English words (after WoBERT; ZhuiyiTechnology/WoBERT).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.tokenization import chinese
from fpm_cli.tokenization.accelerate import Accelerator, Ragged, load_if_exact, make_nanotoken, to_lists
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer, check_ids, check_text
from fpm_cli.tokenization.cjk import are_cjk, is_cjk, places_in_text, spaced, spaced_batch
from fpm_cli.tokenization.subwords import check_minimum, check_size, count_words, train_subwords

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
MODEL = "tokenizer.json"
WHOLE_WORDS_MODEL = "wordpiece.json"  # tokenizer.json by contents, which alone gives other ids
LONGEST_WORD = 100  # characters; a longer word is [UNK], as in BERT


class WordPiece(Tokenizer):
    """Greedy longest match within a word; pieces inside a word carry `##`.

    Lost on the way (`normalise`): case and accents where `lower_case`, control characters, the kind
    and number of spaces, spaces next to Chinese characters and around punctuation; words with an
    unknown character or of more than 100 characters become `[UNK]`.
    """

    def __init__(
        self,
        kind: TokenizerKind,
        pieces: Sequence[str],
        lower_case: bool = True,
        whole_words: bool = False,
    ) -> None:
        """`pieces` in the order of their ids, the five special tokens anywhere among them."""
        from tokenizers import Tokenizer as HfTokenizer
        from tokenizers import decoders, models

        ids = {piece: i for i, piece in enumerate(pieces)}
        if len(ids) != len(pieces):
            raise ValueError("a piece occurs twice")
        missing = [token for token in SPECIALS if token not in ids]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
        self.kind = kind
        self.vocab_size = len(pieces)
        self.special = SpecialTokens(
            pad=ids["[PAD]"], unk=ids["[UNK]"], cls=ids["[CLS]"], sep=ids["[SEP]"], mask=ids["[MASK]"]
        )
        self._pieces = list(pieces)
        self._lower_case, self._whole_words = lower_case, whole_words
        if whole_words:
            self.hf_inexact = "jieba parts the text into words first, which tokenizer.json cannot say"
        self._hf = HfTokenizer(
            models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
        )
        _set_basic_tokenisation(self._hf, lower_case, whole_words)
        self._hf.decoder = decoders.WordPiece()

    def _encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        check_text(text)
        return self._ids(self._prepared(text))

    def _prepared(self, text: str) -> str:
        return spaced(text) if self._whole_words else text

    def _prepared_batch(self, texts: Sequence[str]) -> Sequence[str]:
        if not self._whole_words:
            return texts
        return [prepared for group in chinese.batches(texts) for prepared in spaced_batch(group)]

    def _ids(self, prepared: str) -> list[int]:
        return list(self._hf.encode(prepared, add_special_tokens=False).ids)

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode_batch`."""
        if self._accelerator is None:
            return super()._encode_batch(texts)
        return to_lists(self._encode_ragged(texts))

    def _encode_ragged(self, texts: Sequence[str]) -> Ragged:
        """See `Tokenizer.encode_ragged`."""
        if self._accelerator is None:
            return super()._encode_ragged(texts)
        for text in texts:
            check_text(text)
        return self._accelerator(self._prepared_batch(texts))

    @cached_property
    def _accelerator(self) -> Accelerator | None:
        return load_if_exact(lambda: make_nanotoken(self._hf.to_str()), self._ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Words separated by spaces, with none next to a Chinese character."""
        return _join(_words_of(self.tokens(ids)))

    def normalise(self, text: str) -> str:
        """The words of BERT's basic tokenisation, joined as `decode` joins them."""
        check_text(text)
        return _join(_basic_words(self._hf, self._prepared(text)))

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """See `Tokenizer.tokens`."""
        return [self._pieces[i] for i in check_ids(ids, self.vocab_size)]

    def _word_starts(self, text: str) -> list[bool]:
        """False at `##` pieces and, for bert-zh, at a Chinese character inside one of jieba's words.

        A run of Chinese characters never continues the word of a letter or digit before it.
        """
        check_text(text)
        encoding = self._hf.encode(self._prepared(text), add_special_tokens=False)
        starts = [not token.startswith(CONTINUATION) for token in encoding.tokens]
        if self._must_ask_jieba:
            boundaries, position = set(), 0
            for word in chinese.words(text):
                boundaries.add(position)
                position += len(word)
            before_is_cjk = False
            for index, (begin, end) in enumerate(encoding.offsets):
                this_is_cjk = end > begin and is_cjk(text[begin])
                if this_is_cjk and before_is_cjk:
                    starts[index] = begin in boundaries
                before_is_cjk = this_is_cjk
        return starts

    def word_starts_ragged(self, texts: Sequence[str], encoded: Ragged) -> "NDArray[np.bool_]":
        """See `Tokenizer.word_starts_ragged`; where `##` tells, the texts are not read again."""
        import numpy as np

        starts = self._begins_word[encoded.ids]
        if not self._must_ask_jieba:
            return starts
        first_text = first_token = 0
        for group in chinese.batches(texts):
            ends = encoded.ends[first_text : first_text + len(group)] - first_token
            group_ids = encoded.ids[first_token : first_token + int(ends[-1])]
            group_starts = starts[first_token : first_token + int(ends[-1])]
            self._mark_inner_characters(group, group_ids, ends, group_starts)
            first_text, first_token = first_text + len(group), first_token + int(ends[-1])
        return np.asarray(starts)

    def _mark_inner_characters(
        self,
        texts: Sequence[str],
        ids: "NDArray[np.int32]",
        ends: "NDArray[np.int64]",
        starts: "NDArray[np.bool_]",
    ) -> None:
        """Set `starts` (tokens,) to False at each Chinese character inside one of jieba's words.

        Every Chinese character is one token, so that those characters and their tokens are matched in
        order. An unknown one is [UNK], as other unknown words are: a text with [UNK] of both kinds, which
        the numbers of characters and tokens tell, is read by itself.
        """
        import numpy as np

        segmented = chinese.word_starts(texts)
        sizes = np.diff(ends, prepend=0)  # (texts,), tokens
        text_of_token = np.repeat(np.arange(len(texts)), sizes)
        is_cjk_token = self._is_cjk_piece[ids]  # (tokens,)
        alone = np.ones(len(texts), np.bool_)
        if segmented is not None:
            together, word_starts = segmented
            codes = np.frombuffer(together.encode("utf-32-le"), np.uint32)  # (characters,)
            is_cjk_character = are_cjk(codes)
            lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + 1  # and a separator
            text_of_character = np.repeat(np.arange(len(texts)), lengths)[: len(codes)]
            num_characters = np.bincount(text_of_character[is_cjk_character], minlength=len(texts))
            num_tokens = np.bincount(text_of_token[is_cjk_token], minlength=len(texts))
            is_unknown = ids == self.special.unk  # (tokens,)
            num_unknown = np.bincount(text_of_token[is_unknown], minlength=len(texts))
            all_are_cjk = num_characters == num_tokens + num_unknown  # (texts,), the unknown ones
            is_cjk_token |= is_unknown & all_are_cjk[text_of_token]
            alone = ~all_are_cjk & (num_characters != num_tokens)
            characters = is_cjk_character & ~alone[text_of_character]
            follows_cjk = np.concatenate([[False], is_cjk_token[:-1]])
            follows_cjk[(ends - sizes)[sizes > 0]] = False  # a text's first token
            matched = is_cjk_token & ~alone[text_of_token]
            starts[matched] = word_starts[characters] | ~follows_cjk[matched]
        for index in np.flatnonzero(alone).tolist():
            starts[ends[index] - sizes[index] : ends[index]] = self.word_starts(texts[index])

    @property
    def _must_ask_jieba(self) -> bool:
        """Whether the pieces alone do not tell where words begin."""
        return self.kind == "bert-zh" and not self._whole_words

    @cached_property
    def _begins_word(self) -> "NDArray[np.bool_]":
        """For each id, whether its piece begins a word (vocabulary,)."""
        import numpy as np

        return np.array([not piece.startswith(CONTINUATION) for piece in self._pieces])

    @cached_property
    def _is_cjk_piece(self) -> "NDArray[np.bool_]":
        """For each id, whether its piece is a Chinese character (vocabulary,)."""
        import numpy as np

        return np.array([len(piece) == 1 and is_cjk(piece) for piece in self._pieces])

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """See `Tokenizer.offsets`."""
        check_text(text)
        prepared = self._prepared(text)
        offsets = list(self._hf.encode(prepared, add_special_tokens=False).offsets)
        if self._whole_words:
            places = places_in_text(text, prepared)
            offsets = [(places[begin], places[end - 1] + 1) for begin, end in offsets]
        return offsets

    def model_files(self) -> dict[str, bytes]:
        """A Hugging Face tokenizer.json; its ids are exactly ours, but for whole Chinese words."""
        name = WHOLE_WORDS_MODEL if self._whole_words else MODEL
        return {name: self._hf.to_str(pretty=True).encode()}

    def options(self) -> dict[str, Any]:
        """Whether letters are lower-cased and accents stripped, and whether Chinese words stay whole."""
        return {"lower_case": self._lower_case} | ({"whole_words": True} if self._whole_words else {})

    @classmethod
    def from_files(cls, kind: TokenizerKind, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        """See `Tokenizer.from_files`."""
        whole_words = bool(options.get("whole_words", False))
        vocabulary = json.loads(files[WHOLE_WORDS_MODEL if whole_words else MODEL])["model"]["vocab"]
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[piece] for piece in pieces] != list(range(len(pieces))):
            raise ValueError("ids are not 0 to size - 1, each once")
        return cls(kind, pieces, bool(options["lower_case"]), whole_words)


def train_wordpiece(
    kind: TokenizerKind,
    texts: Iterable[str],
    vocab_size: int,
    allow_smaller: bool,
    *,
    whole_words: bool = False,
) -> WordPiece:
    """Pieces trained from the words of `texts`; the five special tokens are ids 0 to 4."""
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers import models

    check_minimum(kind, len(SPECIALS) + 1, vocab_size)
    basic = HfTokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    _set_basic_tokenisation(basic, True, whole_words)
    counts = count_words(_basic_words(basic, spaced(text) if whole_words else text) for text in texts)
    trained = train_subwords(counts, vocab_size - len(SPECIALS), CONTINUATION)
    check_size(kind, len(trained.pieces) + len(SPECIALS), vocab_size, allow_smaller)
    return WordPiece(kind, [*SPECIALS, *trained.pieces], whole_words=whole_words)


def _set_basic_tokenisation(hf: Any, lower_case: bool, whole_words: bool) -> None:
    from tokenizers import normalizers, pre_tokenizers

    hf.normalizer = normalizers.BertNormalizer(lowercase=lower_case, handle_chinese_chars=not whole_words)
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()


def _basic_words(hf: Any, text: str) -> list[str]:
    normal = hf.normalizer.normalize_str(text)
    return [word for word, _ in hf.pre_tokenizer.pre_tokenize_str(normal)]


def _words_of(tokens: Iterable[str]) -> Iterator[str]:
    word = ""
    for token in tokens:
        if token.startswith(CONTINUATION) and word:
            word += token.removeprefix(CONTINUATION)
        else:
            if word:
                yield word
            word = token
    if word:
        yield word


def _join(words: Iterable[str]) -> str:
    parts: list[str] = []
    for word in words:
        if parts and not (is_cjk(parts[-1][-1]) or is_cjk(word[0])):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)
