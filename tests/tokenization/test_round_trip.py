"""Any text comes back: exactly from gpt-en, as its stated normalisation from the others."""

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fpm_cli.tokenization import KINDS

EVERY = [*KINDS, "bert-zh with whole words"]

AWKWARD = [
    "",
    " ",
    "\n\n",
    "\r\n\r",
    "\u2028\u2029\x85\x0b\x0c",
    "\x00a\x00",
    "\ufeff\u200b\u00ad",
    "👩‍👩‍👧‍👦🇨🇳✊🏿",
    "ＡＢＣ１２３，。！（）？、；：～",
    "繁體中文與簡體混排 mixed with English, 日本語テキストと한국어",
    "▁▂▃ __ ##ing ##",
    "𠀀𪛖㐀龥鿕豈",
    "e\u0301 \u0041\u030a ﬁ ½ ㎏ ①",
    "RAID-0 12.1.1 50% C++ AT&T a--b _x_ #tag",
    "don't can't \"quoted\" 'single' (a) [b] {c} <d> ... --- $5.00/kg",
    "  two  spaces\tand\ttabs ",
    "\x1e",
    "a" * 300,
    "龘" * 50 + "亪乛乑",
    "\U0010ffff\ue000\U000f0000",
    "⁇ <unk> [UNK]",
]

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
mixed = st.lists(
    st.sampled_from([*AWKWARD, "the ", "happy", "我们", "学校", " ", "\n", ",", "'"]), max_size=6
)
texts = any_text | mixed.map("".join)


def awkward(test):
    for text in AWKWARD:
        test = example(text)(test)
    return test


# A session's tokenizer serves every example.
many = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def matches(decoded: str, normal: str, unknown: str) -> bool:
    """Whether `decoded` is `normal`, each `unknown` standing for one or more of its characters."""
    first, *rest = re.split(f"(?:{re.escape(unknown)})+", decoded)
    if not normal.startswith(first):
        return False
    position = len(first)
    for part in rest[:-1]:
        found = normal.find(part, position + 1)
        if found < 0:
            return False
        position = found + len(part)
    return not rest or (normal.endswith(rest[-1]) and len(normal) - len(rest[-1]) > position)


@many
@awkward
@given(text=texts)
def test_gpt_en_keeps_every_text(trained, text):
    tokenizer = trained("gpt-en")
    assert tokenizer.decode(tokenizer.encode(text)) == text == tokenizer.normalise(text)


@many
@awkward
@given(text=texts)
@pytest.mark.parametrize("kind", ["gpt-zh", "t5-zh", "t5-en"])
def test_the_others_keep_their_normalisation_but_for_unknown_characters(trained, kind, text):
    tokenizer = trained(kind)
    unknown = "⁇" if kind == "gpt-zh" else "<unk>"
    ids = tokenizer.encode(text)
    decoded, normal = tokenizer.decode(ids), tokenizer.normalise(text)
    if tokenizer.special.unk in ids:
        assert matches(decoded, normal, unknown)
    else:
        assert decoded == normal


@many
@awkward
@given(text=texts)
@pytest.mark.parametrize("kind", ["bert-en", "bert-zh", "bert-zh with whole words"])
def test_bert_keeps_the_words_of_its_basic_tokenisation(trained, kind, text):
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    decoded, normal = tokenizer.decode(ids), tokenizer.normalise(text)
    if tokenizer.special.unk in ids:
        # An unknown word may stand where Chinese characters stood without spaces.
        decoded, normal = decoded.replace(" ", ""), normal.replace(" ", "")
        assert matches(decoded, normal, "[UNK]")
    else:
        assert decoded == normal


@many
@awkward
@given(text=texts)
@pytest.mark.parametrize("kind", EVERY)
def test_every_view_of_a_text_agrees(trained, kind, text):
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.encode_batch([text, "x", text]) == [ids, tokenizer.encode("x"), ids]
    assert len(tokenizer.word_starts(text)) == len(tokenizer.offsets(text)) == len(ids)
    assert all(0 <= begin <= end <= len(text) for begin, end in tokenizer.offsets(text))


@many
@given(text=texts)
@pytest.mark.parametrize(
    "kind", ["gpt-zh", "t5-zh", "t5-en", "bert-en", "bert-zh", "bert-zh with whole words"]
)
def test_normalising_twice_changes_nothing_more(trained, kind, text):
    tokenizer = trained(kind)
    if kind == "gpt-zh":  # a normal form may be cut into other words, whose pieces compose anew
        text = "".join(c for c in text if (c.isalnum() and c.isascii()) or c in " \n我们学校")
    normal = tokenizer.normalise(text)
    assert tokenizer.normalise(normal) == normal


@pytest.mark.parametrize("kind", EVERY)
def test_a_long_single_line(trained, kind):
    tokenizer = trained(kind)
    for unit in ("a", "我们去学校。", "龘", "word ", "!"):
        line = unit * (100_000 // len(unit.encode()))
        ids = tokenizer.encode(line)
        unknown = ids.count(tokenizer.special.unk)
        assert unknown or tokenizer.decode(ids) == tokenizer.normalise(line)


@pytest.mark.long
@pytest.mark.parametrize("kind", EVERY)
def test_a_single_line_of_ten_megabytes(trained, kind):
    tokenizer = trained(kind)
    for line in (
        "It was the best of times. " * 400_000,
        "我们今天去学校，很好。" * 303_031,
        "亪" * 3_333_334,
    ):
        ids = tokenizer.encode(line)
        assert tokenizer.special.unk in ids or tokenizer.decode(ids) == tokenizer.normalise(line)
