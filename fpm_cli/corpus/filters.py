"""Decides whether a document is kept, one reason at a time; thresholds come from `BuildOptions`."""

import re

from fpm_cli.corpus.options import BuildOptions

_WORD = re.compile(r"[^\W_]+")
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_LATIN = re.compile("[A-Za-zÀ-ÖØ-öø-ɏ]+")

# A first response of nothing but these, repeated or not, is trivial (Shang et al. 2015, section 3).
_TRIVIAL = re.compile(
    "(?:哈|呵|嘿|嘻|哇|哦|噢|喔|嗯|恩|额|呃|啊|呀|哎|唉|诶|欸|咦|吼|嘞|啦|么|吗|呢|吧|了|的|是|好|对|行|赞|顶|囧|汗|晕|"
    "谢谢|不错|可以|真的|支持|转发|加油|收到|路过|同意|沙发|wow|lol|ok|yes|haha|hehe|good|nice|[\\W_]|[0-9])+",
    re.IGNORECASE,
)
_TRIVIAL_CHARACTERS = 8  # a longer response is kept, whatever it is made of
_ADVERTISEMENT = re.compile(
    r"https?://|www\.|t\.cn/|\.(?:com|cn|net)\b|(?:微信|薇信|威信|vx|VX|QQ|qq|扣扣)\s*[:：号]?\s*[A-Za-z0-9_-]{5,}"
    r"|(?<!\d)1[3-9]\d{9}(?!\d)|(?<!\d)400-?\d{3}-?\d{4}(?!\d)"
    "|包邮|代购|淘宝店|加微信|加我微信|私信我|优惠券|领券|秒杀价|招代理|诚招|点击链接|免费领取|限时抢购"
)


def drop_reason(text: str, options: BuildOptions) -> str | None:
    """Why a normalised document is dropped, or None to keep it."""
    if not text:
        return "empty"
    if len(text) < options.min_characters:
        return "too_short"
    if options.max_characters and len(text) > options.max_characters:
        return "too_long"
    if options.language and language(text) != options.language:
        return "other_language"
    if options.min_density and text_density(text) < options.min_density:
        return "low_density"
    if options.max_repetition and repetition(text) > options.max_repetition:
        return "repetitive"
    if options.drop_trivial and is_trivial(text):
        return "trivial_response"
    if options.drop_advertisements and _ADVERTISEMENT.search(text):
        return "advertisement"
    return None


def text_density(text: str) -> float:
    """The share of letters, ideographs and digits among all characters, blanks included."""
    return sum(map(len, _WORD.findall(text))) / len(text)


def repetition(text: str) -> float:
    """The share of characters in lines that repeat an earlier line of the text."""
    seen: set[str] = set()
    repeated = 0
    for line in text.split("\n"):
        if line in seen:
            repeated += len(line)
        seen.add(line)
    return repeated / len(text)


def language(text: str) -> str:
    """`zh` where Chinese characters outnumber Latin words, `en` where they do not, empty with neither."""
    num_chinese = sum(map(len, _CHINESE.findall(text)))
    num_latin = len(_LATIN.findall(text))
    if not num_chinese and not num_latin:
        return ""
    return "zh" if num_chinese > num_latin else "en"


def is_trivial(dialogue: str) -> bool:
    """Whether the first response (the second line) only exclaims or agrees."""
    response = dialogue.split("\n")[1] if "\n" in dialogue else ""
    return len(response) <= _TRIVIAL_CHARACTERS and _TRIVIAL.fullmatch(response) is not None
