"""Whole words in bulk are those of each text by itself."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpm_cli.tokenization.cjk import spaced, spaced_batch

TEXTS = [
    "",
    "今天天气很好，我们去学校。",
    "我 们去 北京大学 RAID-0 读书abc学习",
    "亪乛㐀豈𠀀 unknown 龘 characters",
    "豈更車 compatibility",
    "a separator \x1e inside 我们",
    "\x1e",
    "我们",
    "们",
    "\u3000全角ＡＢＣ１２３，标点！",
    "我们\u200b今天\x00天气",
]
characters = st.sampled_from("我们今天气很好学校北京大的亪㐀豈a1 -.\x1e，。é\u0301\u3000")
texts = st.lists(st.text(characters, max_size=30), max_size=6)


@pytest.fixture(params=["bert-zh", "bert-en", "bert-zh with whole words"])
def bert(request, trained):
    return trained(request.param)


def one_by_one(tokenizer, texts):
    return [start for text in texts for start in tokenizer.word_starts(text)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=texts)
def test_word_starts_in_bulk_are_those_of_each_text(bert, texts):
    encoded = bert.encode_ragged(texts)
    assert bert.word_starts_ragged(texts, encoded).tolist() == one_by_one(bert, texts)


def test_word_starts_of_several_groups_are_those_of_each_text(bert, monkeypatch):
    monkeypatch.setattr("fpm_cli.tokenization.chinese._TEXTS_AT_ONCE", 3)
    assert bert.word_starts_ragged(TEXTS, bert.encode_ragged(TEXTS)).tolist() == one_by_one(bert, TEXTS)
    assert bert.word_starts_ragged([], bert.encode_ragged([])).tolist() == []


def test_without_unknown_characters_no_text_is_read_by_itself(trained, sample_texts, monkeypatch):
    tokenizer = trained("bert-zh")
    known = [
        text for text in sample_texts("bert-zh")[:200] if tokenizer.special.unk not in tokenizer.encode(text)
    ]
    expected = one_by_one(tokenizer, known)
    assert len(known) > 20 and False in expected
    monkeypatch.setattr(type(tokenizer), "word_starts", None)
    assert tokenizer.word_starts_ragged(known, tokenizer.encode_ragged(known)).tolist() == expected


@pytest.mark.parametrize("text", ["曹操亪曰曹操乛", "曹操 ღღ 曰曹操 ღ"])
def test_unknown_characters_of_one_kind_are_matched_in_bulk(trained, monkeypatch, text):
    tokenizer = trained("bert-zh")
    assert tokenizer.encode(text).count(tokenizer.special.unk) == 2
    expected = one_by_one(tokenizer, [text])
    assert False in expected
    monkeypatch.setattr(type(tokenizer), "word_starts", None)
    assert tokenizer.word_starts_ragged([text], tokenizer.encode_ragged([text])).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(texts=texts)
def test_spaces_put_in_bulk_are_those_of_each_text(texts):
    assert spaced_batch(texts) == [spaced(text) for text in texts]
    assert spaced_batch(TEXTS) == [spaced(text) for text in TEXTS]


def test_ids_in_bulk_are_those_of_each_text(bert):
    assert bert.encode_batch(TEXTS) == [bert.encode(text) for text in TEXTS]
