"""`gpt-zh`: jieba's words, then a SentencePiece unigram model, as in CPM-1."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import MissingError
from fpm_cli.tokenization import chinese
from fpm_cli.tokenization.accelerate import Ragged
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer, check_ids
from fpm_cli.tokenization.cpm import FROM_MARKS, NEWLINE, SPACE, SPECIALS, special_ids
from fpm_cli.tokenization.long_texts import MAX_TRAINED_WORD
from fpm_cli.tokenization.subwords import check_minimum, check_size, choose_alphabet

MODEL = "sentencepiece.model"
WORD_MARK = "\u2581"  # SentencePiece's: a word begins
UNKNOWN = "\u2047"  # what an unknown character decodes to
LONGEST_PIECE = 16  # characters (CPM-1's trainer_spec)
_LONGEST_SENTENCE = 4000  # bytes; SentencePiece's trainer leaves out sentences above 4,192
_TRAINER_PARTS = 16  # the trainer's sums depend on their number, so it is fixed; not the machine's cores


class Unigram(Tokenizer):
    """jieba + U+2582/U+2583 + SentencePiece (TsinghuaAI/CPM-1-Generate, data_utils/tokenization_gpt2.py).

    Lost on the way (`normalise`): what SentencePiece's nmt_nfkc rewrites (full-width letters to
    ASCII, tabs and other Unicode spaces, control characters), and U+2582 and U+2583 themselves, which
    represent space and newline. A character outside the vocabulary is `<unk>` and decodes to U+2047.
    """

    kind: TokenizerKind = "gpt-zh"
    hf_inexact: str | None = "jieba cuts words first, which tokenizer.json cannot say"

    def __init__(self, model: bytes) -> None:
        """`model` is a SentencePiece unigram model with CPM's special tokens as ids 0 to 7."""
        import sentencepiece

        self._model = model
        self._sp = sentencepiece.SentencePieceProcessor()
        try:
            self._sp.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model ({error})") from error
        self.vocab_size = int(self._sp.GetPieceSize())
        self._pieces = [str(self._sp.IdToPiece(i)) for i in range(self.vocab_size)]
        self.special: SpecialTokens = special_ids(self._pieces)

    def _encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return list(self._sp.EncodeAsIds(_segment([text])[0]))

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode_batch`; on the calling thread alone."""
        ids: list[list[int]] = []
        for group in chinese.batches(texts):
            ids += self._sp.EncodeAsIds(_segment(group), num_threads=1)
        return ids

    def _encode_ragged(self, texts: Sequence[str]) -> Ragged:
        """See `Tokenizer.encode_ragged`; on the calling thread alone.

        Whole lines are encoded, not words: SentencePiece adds the scores of a line in float32, and their
        rounding decides between two almost equally probable ways to split a word.
        """
        import numpy as np

        groups, lengths = [np.empty(0, np.int32)], list[int]()
        for group in chinese.batches(texts):
            arrays = self._sp.EncodeAsNumpy(_segment(group), num_threads=1)
            groups.append(np.concatenate(arrays))
            lengths += map(len, arrays)
        return Ragged(np.concatenate(groups), np.cumsum(lengths, dtype=np.int64))

    def decode(self, ids: Iterable[int]) -> str:
        """Pieces joined, inserted spaces deleted, U+2582 and U+2583 mapped back."""
        unknown = self.special.unk
        pieces = [UNKNOWN if i == unknown else self._pieces[i] for i in check_ids(ids, self.vocab_size)]
        return "".join(pieces).replace(WORD_MARK, "").translate(FROM_MARKS)

    def normalise(self, text: str) -> str:
        """nmt_nfkc word by word, the spaces it makes deleted."""
        normal = self._sp.Normalize(_segment([text])[0])
        return str(normal).replace(WORD_MARK, "").replace(" ", "").translate(FROM_MARKS)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """See `Tokenizer.tokens`; U+2581 marks the beginning of a word."""
        return [self._pieces[i] for i in check_ids(ids, self.vocab_size)]

    def _word_starts(self, text: str) -> list[bool]:
        """True where a word of jieba begins."""
        return [token.startswith(WORD_MARK) for token in self.tokens(self._encode(text))]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """See `Tokenizer.offsets`; U+2581 alone represents no character."""
        segmented = _segment([text])[0]
        # Where in the text each character of the segmented text is: spaces were put in, none taken out.
        place, places = 0, []
        for character in segmented:
            places.append(place)
            place += character != " "
        places.append(place)
        spans = self._sp.Encode(segmented, return_type="offset_mapping")["offsets"]
        return [(places[begin], places[end]) for begin, end in spans]

    def model_files(self) -> dict[str, bytes]:
        """The SentencePiece model."""
        return {MODEL: self._model}

    def options(self) -> dict[str, Any]:
        """Nothing beyond the model."""
        return {}

    @classmethod
    def from_files(cls, kind: TokenizerKind, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        """See `Tokenizer.from_files`."""
        return cls(files[MODEL])


def train_unigram(texts: Iterable[str], vocab_size: int, allow_smaller: bool) -> Unigram:
    """CPM-1's trainer settings; fewer characters where 99.95 % of them leave no entries for words."""
    check_minimum("gpt-zh", len(SPECIALS) + 2, vocab_size)
    sentences = _cover([sentence for text in texts for sentence in _sentences(text)], vocab_size)
    try:
        model = _train(sentences, vocab_size)
    except _TooLarge as error:
        check_size("gpt-zh", error.largest, vocab_size, allow_smaller)
        model = _train(sentences, error.largest)
    return Unigram(model)


class _TooLarge(Exception):
    def __init__(self, largest: int) -> None:
        super().__init__(largest)
        self.largest = largest


def _train(sentences: list[str], vocab_size: int) -> bytes:
    import sentencepiece

    special = [token for token in SPECIALS if token not in ("<unk>", "<s>", "</s>")]
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=writer,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            max_sentencepiece_length=LONGEST_PIECE,
            normalization_rule_name="nmt_nfkc",
            # jieba parts `<`, `eod` and `>`, so that no text is encoded to these.
            user_defined_symbols=[*special, SPACE],
            num_threads=_TRAINER_PARTS,
            minloglevel=2,
        )
    except RuntimeError as error:
        largest = re.search(r"value <= (\d+)", str(error))
        if largest is None:
            raise
        raise _TooLarge(int(largest[1])) from error
    return writer.getvalue()


def _cover(sentences: list[str], vocab_size: int) -> list[str]:
    """The sentences normalised, a space for every character that the vocabulary does not cover.

    Done here, since the trainer refuses to cover less than 98 % of the text's characters.
    """
    import sentencepiece

    normalise = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").Normalize
    sentences = [str(normalise(sentence)).replace(WORD_MARK, " ").strip(" ") for sentence in sentences]
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence)
    fixed = (" ", SPACE, NEWLINE)
    for mark in fixed:
        counts.pop(mark, None)
    if not counts:
        raise MissingError("no text to train on: nothing of it is left for this kind of tokenizer")
    alphabet = choose_alphabet(counts, vocab_size - len(SPECIALS) - 2)
    dropped = {ord(character): " " for character in counts.keys() - set(alphabet)}
    return [sentence.translate(dropped) for sentence in sentences]


def _sentences(text: str) -> Iterator[str]:
    """Lines of words joined by a space, each short enough for the trainer to take."""
    sentence: list[str] = []
    length = 0
    for word in _segment([text])[0].split(" "):
        if len(word) > MAX_TRAINED_WORD:
            if sentence:
                yield " ".join(sentence)
            yield from (word[i : i + MAX_TRAINED_WORD] for i in range(0, len(word), MAX_TRAINED_WORD))
            sentence, length = [], 0
            continue
        length += len(word.encode()) + 1
        sentence.append(word)
        if word == NEWLINE or length > _LONGEST_SENTENCE:
            yield " ".join(sentence)
            sentence, length = [], 0
    if sentence:
        yield " ".join(sentence)


def _segment(texts: Sequence[str]) -> list[str]:
    """For each text jieba's words with a space between, its own spaces and newlines as marks.

    CPM-1 marks after cutting, which is the same: both are words of their own before and after. (A
    `\\r` before a newline stays with it there; SentencePiece makes the same space of it.)
    """
    return chinese.join_words(texts, SPACE, NEWLINE)
