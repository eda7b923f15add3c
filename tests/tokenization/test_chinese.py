"""Chinese words are jieba's, with rjieba and without."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpm_cli.tokenization import chinese, jieba_exact, rjieba_differences

TRICKY = [
    "",
    "他来到了网易杭研大厦",
    "RAID-0的re-installation见12.1.1节，C++和AT&T占50.5%，btrfs.wiki.kernel.org/",
    "常在雨中跑，如何淋得少？",  # closer than rjieba's rounding
    "亪乛乑龘靐齉齾爩",  # never seen by the model
    "我們㐀㐁豈𠀀鿖喜歡",  # Chinese to rjieba alone
    "a.b.c--d 1.5abc%% 3.14.15% _x_ .5 5. #1",
    "c#和C#以及c++11，T恤X光B超",
    "\r\n \t\u3000\u2028\x1e\x00",
    "１２３ＡＢＣ；、。",
]


@pytest.fixture(scope="module")
def jieba_cut():
    import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer.lcut


common = st.sampled_from("的一是不了在人有我他这中大来上个国和说们常夫王丹雨春秋學龘乛㐀. -a1%+C#T\n，")
texts = st.text(common, max_size=40) | st.text(max_size=30).filter(lambda t: t.isprintable())


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_words_are_jiebas(jieba_cut, text):
    expected = jieba_cut(text)
    assert jieba_exact.cut(text) == expected
    assert chinese.words(text) == expected


@pytest.mark.parametrize("text", TRICKY)
def test_words_of_tricky_text_are_jiebas(jieba_cut, text):
    assert chinese.words(text) == jieba_exact.cut(text) == jieba_cut(text)


def test_words_of_the_sample_are_jiebas(jieba_cut, sample_texts):
    for text in sample_texts("gpt-zh")[:400]:
        assert chinese.words(text) == jieba_exact.cut(text) == jieba_cut(text)


def test_words_in_bulk_are_the_words_one_by_one():
    joined = chinese.join_words(TRICKY * 20, "\u2582", "\u2583")
    assert len(joined) == 20 * len(TRICKY)
    for text, line in zip(TRICKY * 20, joined, strict=True):
        marked = text.replace(" ", "\u2582").replace("\n", "\u2583")
        assert line.strip(" ") == " ".join(chinese.words(marked))


def test_without_rjieba_nothing_changes(monkeypatch):
    with_it = [chinese.words(text) for text in TRICKY]
    bulk = chinese.join_words(TRICKY, "\u2582", "\u2583")
    monkeypatch.setattr(chinese, "_rjieba", lambda: None)
    assert [chinese.words(text) for text in TRICKY] == with_it
    slow = chinese.join_words(TRICKY, "\u2582", "\u2583")
    assert [line.strip(" ") for line in slow] == [line.strip(" ") for line in bulk]


def test_an_rjieba_that_answers_otherwise_is_not_trusted(monkeypatch):
    rjieba = pytest.importorskip("rjieba")

    class Other:
        def cut(self, text):
            return list(text)

    monkeypatch.setattr(rjieba, "Jieba", Other)
    assert chinese._rjieba.__wrapped__() is None


def test_jieba_agrees_on_every_probe(jieba_cut):
    for probe in chinese._PROBES:
        assert "|".join(jieba_cut(probe.replace("|", ""))) == probe


def test_the_pair_that_rounding_tips_is_listed():
    assert rjieba_differences.differing_positions("我常在这") == [1]
    assert rjieba_differences.differing_positions("他们去学校") == []
    assert rjieba_differences.differing_positions("a龘㐀") == [1, 2]


def test_the_dictionary_words_with_signs_are_all_listed():
    words = {word for word, count in jieba_exact.dictionary().frequency.items() if count and word.isascii()}
    assert {word for word in words if len(word) > 1} == chinese._WORDS_WITH_SIGNS


def test_time_is_linear_in_a_line_of_unknown_characters():
    began = time.process_time()
    assert "".join(jieba_exact.cut("亪" * 30_000)) == "亪" * 30_000
    assert time.process_time() - began < 5  # jieba's own takes minutes
