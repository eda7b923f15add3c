import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.corpus.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("他说：“走！”众人应了。次日，天晴", ["他说：“走！”", "众人应了。", "次日，天晴"]),
        ("真的？！是……好的。", ["真的？！", "是……", "好的。"]),
        ("Mr. Holmes rose. He left.", ["Mr. Holmes rose.", "He left."]),
        ("It was J. K. Smith. Pi is 3.14. Yes", ["It was J. K. Smith.", "Pi is 3.14.", "Yes"]),
        ('"Go!" he said. "Why?" She went.', ['"Go!" he said.', '"Why?"', "She went."]),
        ("e.g. this one, i.e. that. Done...", ["e.g. this one, i.e. that.", "Done..."]),
        ("第一段\n第二段。 \n\n末", ["第一段", "第二段。", "末"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(alphabet="aB. !?。！”\"'\n，三"))
def test_nothing_but_blanks_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in sentences)
