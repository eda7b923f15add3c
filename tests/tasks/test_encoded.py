"""Examples become the sequences of their family, and batches share the work without losing a row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.tasks.batching import balanced_batches
from fpm_cli.tasks.encoded import EncodedExamples, encode_examples, load_encoded, truncated
from fpm_cli.tasks.examples import Example
from fpm_cli.tasks.split_validation import split_off_validation
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import train_tokenizer

TEXT = "abcdefg " * 20
CPU = torch.device("cpu")


def example(text_a: str, text_b: str | None = None, label: int | None = 0) -> Example:
    return Example("0", text_a, text_b, label, "file", 1)


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return train_tokenizer("bert-en", ["a b c d e f g", TEXT], 40, allow_smaller=True)


def test_a_pair_has_its_separators_and_types(bert: Tokenizer) -> None:
    encoded = encode_examples([example("a b", "c"), example("d", "e f g")], bert, "bert", 32)
    batch = encoded.batch(np.array([1, 0]), CPU)
    pieces = bert.tokens(batch["tokens"].tolist())
    assert " ".join(pieces) == "[CLS] d [SEP] e f g [SEP] [CLS] a b [SEP] c [SEP]"
    assert batch["token_types"].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]
    assert batch["lengths"].tolist() == [7, 6]


def test_a_gpt_and_an_encoder_decoder_example_end_in_eod() -> None:
    gpt = train_tokenizer("gpt-en", [TEXT], 300, allow_smaller=True)
    encoded = encode_examples([example("ab", "cd"), example("a", "b")], gpt, "gpt", 32)
    rows = np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])
    for row, (first, second) in zip(rows, [("ab", "cd"), ("a", "b")], strict=True):
        eod = gpt.special.eod
        assert row.tolist() == [*gpt.encode(first), eod, *gpt.encode(second), eod]
    t5 = train_tokenizer("t5-en", [TEXT], 300, allow_smaller=True)
    batch = encode_examples([example("ab"), example("a b c")], t5, "encdec", 32).batch(np.arange(2), CPU)
    assert batch["encoder_mask"].sum(1).tolist() == [len(t5.encode("ab")) + 1, len(t5.encode("a b c")) + 1]
    assert batch["decoder_tokens"].tolist() == [[t5.special.bos]] * 2


@given(first=st.integers(0, 60), second=st.integers(0, 60), room=st.integers(1, 60))
def test_the_longer_text_is_cut_first(first: int, second: int, room: int) -> None:
    kept_first, kept_second = truncated([first, second], room)
    assert kept_first + kept_second == min(first + second, room)
    assert kept_first <= first and kept_second <= second
    if kept_first < first and kept_second < second:  # both were cut: down to equal lengths
        assert abs(kept_first - kept_second) <= 1
    elif kept_first < first:
        assert kept_first >= second - 1
    elif kept_second < second:
        assert kept_second >= first - 1


def test_no_room_for_text_is_refused(bert: Tokenizer) -> None:
    with pytest.raises(UsageError, match="sequence_length 4 leaves no room"):
        encode_examples([example("a", "b")], bert, "bert", 4)


def test_what_was_encoded_is_read_again(bert: Tokenizer, tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "examples.safetensors"
    encoded = encode_examples([example("a b", "c", 1), example("d", "e", None)], bert, "bert", 32)
    encoded.save(path)
    again = load_encoded(path)
    assert again.family == "bert" and again.labels.tolist() == [1, -1]
    assert again.tokens.tolist() == encoded.tokens.tolist()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DamagedError, match="not the encoded examples"):
        load_encoded(path)


@given(
    lengths=st.lists(st.integers(1, 128), min_size=24, max_size=24),
    num_batches=st.sampled_from([1, 2, 3, 4, 6]),
    family=st.sampled_from(["bert", "encdec"]),
)
def test_every_row_is_dealt_once_and_batches_weigh_alike(
    lengths: list[int], num_batches: int, family: str
) -> None:
    of = np.array(lengths)
    empty = np.zeros(0, dtype=np.int64)
    examples = EncodedExamples(empty, of, of, np.zeros(24, np.int64), family, 0)  # type: ignore[arg-type]
    dealt = balanced_batches(examples, np.arange(24), num_batches)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(24))
    assert all(len(batch) == 24 // num_batches for batch in dealt)
    assert all((np.diff(of[batch]) >= 0).all() for batch in dealt)
    if family == "bert":  # dealt back and forth, two batches differ by no more than the longest sequence
        tokens = [int(of[batch].sum()) for batch in dealt]
        assert max(tokens) - min(tokens) <= max(lengths)


def test_a_repeated_text_is_held_back_or_trained_on_but_never_both() -> None:
    examples = [example(f"text {number % 200}") for number in range(1000)]
    train, held_back = split_off_validation(examples, 0.2)
    assert len(train) + len(held_back) == 1000 and 100 < len(held_back) < 320
    assert not {e.text_a for e in train} & {e.text_a for e in held_back}
    with pytest.raises(UsageError, match="leaves none for validation"):
        split_off_validation(examples[:1], 1e-9)
