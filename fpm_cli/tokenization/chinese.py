"""Chinese words by jieba: silent, from its dictionary alone, never from a cache in a shared folder."""

import threading
from functools import cache
from typing import Any

_loading = threading.Lock()


def words(text: str) -> list[str]:
    """The words of `text` in jieba's accurate mode with its hidden Markov model; they join to `text`."""
    with _loading:
        jieba = _jieba()
    return list(jieba.cut(text, HMM=True))


@cache
def _jieba() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are not raw strings
        import jieba
    tokenizer = jieba.Tokenizer()
    # `initialize` would log, and would load a marshalled cache from the system's temporary folder.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def is_cjk(character: str) -> bool:
    """Whether BERT's basic tokenisation sets the character apart as Chinese.

    The blocks of google-research/bert, tokenization.py, `_is_chinese_char`.
    """
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
