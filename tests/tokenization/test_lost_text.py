"""What tokens do not determine is counted and paid for, so that vocabularies of different sizes compare."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpm_cli.corpus.samples import sample_text
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.lost_text import UNICODE_CHARACTERS, LostText, LostTextCounter, lost_bits
from fpm_cli.tokenization.registry import train_tokenizer

CHINESE = sample_text("zh").read_text(encoding="utf-8").split("\n\n")
ENGLISH = sample_text("en").read_text(encoding="utf-8").split("\n\n")[:200]


@pytest.fixture(scope="module")
def unigram() -> Tokenizer:
    return train_tokenizer("gpt-zh", CHINESE, 300)


def measure(tokenizer: Tokenizer, *texts: str) -> LostText:
    counter = LostTextCounter()
    for text in texts:
        counter.add(tokenizer, text)
    return counter.total()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100, deadline=None)
def test_a_byte_level_vocabulary_loses_nothing(byte_bpe: Tokenizer, text: str) -> None:
    assert measure(byte_bpe, text) == LostText()
    assert lost_bits(LostText(), len(text)) == 0


@pytest.fixture(scope="module")
def byte_bpe() -> Tokenizer:
    return train_tokenizer("gpt-en", ENGLISH, 400)


def test_unknown_characters_are_counted_even_where_several_share_a_token(unigram: Tokenizer) -> None:
    text = "却说葡萄，却说\U00020000"  # 葡萄 is one word, and one <unk>
    lost = measure(unigram, text)
    assert unigram.encode(text).count(0) == lost.unknown_tokens == 2
    assert lost.unknown_characters == 3 and lost.unknown_bytes == 3 + 3 + 4


def test_what_is_substituted_is_told_from_what_is_rewritten(unigram: Tokenizer) -> None:
    lost = measure(unigram, "他说，好！说，")
    assert lost.substitutions == {",": {"，": 2}, "!": {"！": 1}}
    assert lost.changed_characters == 3 and lost.changed_bytes == 9 and lost.rewritten_characters == 0
    assert measure(unigram, "他\u3000说").rewritten_characters == 1  # the space is deleted


@given(st.lists(st.sampled_from("却说曹操，。！Ａ１1,a\U00020000\u00ad ﬁ㍿\n"), max_size=60).map("".join))
@settings(max_examples=200, deadline=None)
def test_every_character_that_does_not_come_back_is_counted(unigram: Tokenizer, text: str) -> None:
    lost = measure(unigram, text)
    decoded = Counter(unigram.decode(unigram.encode(text)))
    missing = Counter(text) - decoded  # characters that decoding gives less often than the text has
    assert sum(missing.values()) <= lost.unknown_characters + lost.changed_characters
    if text == unigram.decode(unigram.encode(text)):
        assert lost == LostText()


def test_the_code_of_substitutions_is_the_entropy_of_the_originals() -> None:
    mixed = LostText(changed_characters=300, substitutions={",": {"，": 300, ",": 700}})
    table = 2 * (math.log2(UNICODE_CHARACTERS) + math.log2(10_001))
    entropy = -sum(p * math.log2(p) for p in (0.3, 0.7))
    assert lost_bits(mixed, 10_000) - table == pytest.approx(1000 * entropy, rel=0.01)
    always = LostText(changed_characters=300, substitutions={",": {"，": 300}})
    assert lost_bits(always, 10_000) == pytest.approx(table / 2)


def test_unknown_characters_cost_a_uniform_code_and_their_division_among_tokens() -> None:
    lost = LostText(unknown_tokens=3, unknown_characters=5)
    assert lost_bits(lost, 100) == pytest.approx(5 * math.log2(154_998) + math.log2(math.comb(4, 2)))


def test_larger_vocabularies_of_the_same_text_have_fewer_bits_per_byte_once_all_is_paid_for() -> None:
    """The model here is the tokens' own frequencies, the same for every vocabulary."""
    num_bytes, num_characters = (sum(map(len, texts)) for texts in ([t.encode() for t in CHINESE], CHINESE))
    of_tokens, of_text = [], []
    for size in (300, 1000, 2000):
        tokenizer = train_tokenizer("gpt-zh", CHINESE, size)
        counts = np.bincount(np.concatenate([np.array(ids) for ids in tokenizer.encode_batch(CHINESE)]))
        shares = counts[counts > 0] / counts.sum()
        bits = float(-(shares * np.log2(shares)).sum() * counts.sum())
        of_tokens.append(bits / num_bytes)
        of_text.append((bits + lost_bits(measure(tokenizer, *CHINESE), num_characters)) / num_bytes)
    assert of_tokens == sorted(of_tokens)  # as if losing text were learning
    assert of_text == sorted(of_text, reverse=True)


def test_counts_of_parts_add_up_to_those_of_the_whole(unigram: Tokenizer) -> None:
    parts, whole = LostTextCounter(), LostTextCounter()
    for start in (0, 5):
        part = LostTextCounter()
        for text in CHINESE[start : start + 5]:
            part.add(unigram, text)
            whole.add(unigram, text)
        parts.merge(json.loads(json.dumps(part.document())))
    assert parts.total() == whole.total() != LostText()
