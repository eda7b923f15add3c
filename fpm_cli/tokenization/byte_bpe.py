"""`gpt-en`: GPT-2's byte-level byte-pair encoding. Every text has ids and comes back unchanged."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.tokenization.accelerate import Accelerator, Ragged, load_if_exact, make_gigatoken, to_lists
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer, check_ids, check_text
from fpm_cli.tokenization.long_texts import split_long_runs
from fpm_cli.tokenization.subwords import MIN_FREQUENCY, check_minimum, check_size

END_OF_TEXT = "<|endoftext|>"
MODEL = "tokenizer.json"


class ByteBpe(Tokenizer):
    """Byte-level BPE; `<|endoftext|>` has an id (`special.eod`) that no text is encoded to."""

    kind: TokenizerKind = "gpt-en"

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        """`vocabulary` has the 256 byte characters, the merged pieces and `<|endoftext|>`."""
        from tokenizers import Tokenizer as HfTokenizer
        from tokenizers import decoders, models, pre_tokenizers

        ids = {piece: int(i) for piece, i in vocabulary.items()}
        if sorted(ids.values()) != list(range(len(ids))):
            raise ValueError("ids are not 0 to size - 1, each once")
        if END_OF_TEXT not in ids or not ids.keys() >= set(byte_characters()):
            raise ValueError(f"the vocabulary lacks {END_OF_TEXT} or one of the 256 bytes")
        self.vocab_size = len(ids)
        self.special = SpecialTokens(eod=ids[END_OF_TEXT], eos=ids[END_OF_TEXT], bos=ids[END_OF_TEXT])
        self._pieces = sorted(ids, key=ids.__getitem__)
        byte_of = {character: byte for byte, character in enumerate(byte_characters())}
        # `<|endoftext|>` consists of byte characters that represent themselves.
        self._bytes = [bytes(byte_of[character] for character in piece) for piece in self._pieces]
        self._hf = HfTokenizer(models.BPE(ids, [(left, right) for left, right in merges]))
        self._hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._hf.decoder = decoders.ByteLevel()

    def _encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        check_text(text)
        return list(self._hf.encode(text).ids)

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
        return self._accelerator(texts)

    @cached_property
    def _accelerator(self) -> Accelerator | None:
        return load_if_exact(lambda: make_gigatoken(self._hf.to_str()), self._encode)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`. Bytes that form no character, as a model may emit, become U+FFFD."""
        return b"".join(self._bytes[i] for i in check_ids(ids, self.vocab_size)).decode(errors="replace")

    def normalise(self, text: str) -> str:
        """Every text is kept exactly."""
        check_text(text)
        return text

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """GPT-2's printable byte characters, so that a space reads as U+0120."""
        return [self._pieces[i] for i in check_ids(ids, self.vocab_size)]

    def _word_starts(self, text: str) -> list[bool]:
        """True where one of GPT-2's pre-tokens (a word with the space before it) begins."""
        check_text(text)
        words = self._hf.encode(text).word_ids
        return [index == 0 or words[index - 1] != word for index, word in enumerate(words)]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """See `Tokenizer.offsets`; a token of some of a character's bytes represents the whole character."""
        check_text(text)
        return list(self._hf.encode(text, add_special_tokens=False).offsets)

    def model_files(self) -> dict[str, bytes]:
        """A Hugging Face tokenizer.json; its ids are exactly ours."""
        return {MODEL: self._hf.to_str(pretty=True).encode()}

    def options(self) -> dict[str, Any]:
        """Nothing beyond the model."""
        return {}

    @classmethod
    def from_files(cls, kind: TokenizerKind, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        """See `Tokenizer.from_files`."""
        model = json.loads(files[MODEL])["model"]
        return cls(model["vocab"], [(left, right) for left, right in model["merges"]])


def byte_characters() -> list[str]:
    """GPT-2's printable substitute for each of the 256 bytes, in the order of the bytes.

    Printable Latin-1 represents itself, the other 68 bytes follow from U+0100 (openai/gpt-2,
    src/encoder.py, `bytes_to_unicode`).
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def train_byte_bpe(texts: Iterable[str], vocab_size: int, allow_smaller: bool) -> ByteBpe:
    """Merges trained from `texts`; `<|endoftext|>` is the last id, as in GPT-2."""
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    check_minimum("gpt-en", 257, vocab_size)
    learner = HfTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=MIN_FREQUENCY,
        show_progress=False,
        initial_alphabet=byte_characters(),
        limit_alphabet=256,
    )
    learner.train_from_iterator(split_long_runs(texts), trainer)
    model = json.loads(learner.to_str())["model"]
    check_size("gpt-en", len(model["vocab"]) + 1, vocab_size, allow_smaller)
    vocabulary = {**model["vocab"], END_OF_TEXT: len(model["vocab"])}
    return ByteBpe(vocabulary, [(left, right) for left, right in model["merges"]])
