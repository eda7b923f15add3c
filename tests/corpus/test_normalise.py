import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.corpus.normalise import normalise


def test_broken_characters_are_removed_and_counted() -> None:
    text, removed = normalise("a\0b\0\ud83dc\ufffd\x07\ufeffd")
    assert text == "abcd"
    assert removed == {"nul": 2, "lone_surrogate": 1, "replacement_character": 1, "control_character": 1}


def test_line_ends_and_blanks_are_made_one_kind() -> None:
    assert normalise("\r\n一 \r\n二\u2028三\n\n\n\n四\u3000\n")[0] == "一\n二\n三\n\n四"


def test_unicode_is_composed() -> None:
    assert normalise("cafe\u0301")[0] == "café"


@given(st.text())
def test_clean_text_stays_as_it_is(text: str) -> None:
    clean, _ = normalise(text)
    assert normalise(clean) == (clean, {})
    assert unicodedata.is_normalized("NFC", clean)
    clean.encode()


@given(st.text(alphabet="ab \t\n\r\u3000\x00\x85\x9f\u2028\u2029\ufeff\ufffd\uffff\ud800£，é\u0301"))
def test_every_unwanted_character_is_suspected(text: str) -> None:
    clean, _ = normalise(text)
    assert not set(clean) & set("\r\x00\x85\x9f\u2028\u2029\ufeff\ufffd\uffff\ud800")
    assert "\n\n\n" not in clean and " \n" not in clean
    assert normalise(clean) == (clean, {})
