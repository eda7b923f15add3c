"""What holds for every kind: size, storage, special tokens, decoding, words and offsets."""

import json

import pytest

from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.tokenization import KINDS, load_tokenizer, train_tokenizer
from fpm_cli.tokenization.store import META

SPECIAL_TEXT = "a <eod> b [MASK] c <|endoftext|> <s_0> </s> <pad> [PAD] <unk> [UNK]"
TEXTS = {
    "en": 'It was the best of times, it was the worst of times;  don\'t "stop" (now)!\nNext line.',
    "zh": "今天天气很好，我们去学校。RAID-0 有１２个 test！\n第二行",
}


def text_for(tokenizer):
    return TEXTS[tokenizer.kind[-2:]]


def test_size_is_exact(tokenizer):
    assert tokenizer.vocab_size == 1024
    assert len(tokenizer.tokens(range(1024))) == len(set(tokenizer.tokens(range(1024)))) == 1024


def test_stored_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    text = text_for(tokenizer)
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.kind, loaded.vocab_size, loaded.special) == (
        tokenizer.kind,
        tokenizer.vocab_size,
        tokenizer.special,
    )
    loaded.save(tmp_path / "again")
    for file in (tmp_path / "t").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_an_existing_folder_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    with pytest.raises(UsageError, match="exists"):
        tokenizer.save(tmp_path / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


def test_the_text_of_a_special_token_is_text(tokenizer):
    found = set(tokenizer.encode(SPECIAL_TEXT)) & tokenizer.special.ids()
    assert found <= {tokenizer.special.unk}


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    texts = [text_for(tokenizer), "", " ", "\n", "a\x1eb", SPECIAL_TEXT, "常在雨中跑 亪乛", *TEXTS.values()]
    one_by_one = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == one_by_one
    ids, ends = tokenizer.encode_ragged(texts)
    assert ids.tolist() == [i for some in one_by_one for i in some]
    assert [len(some) for some in one_by_one] == [
        end - begin for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]
    assert tokenizer.encode_batch([]) == []
    assert len(tokenizer.encode_ragged([]).ids) == 0


def test_words_and_offsets_have_one_entry_a_token(tokenizer):
    for text in (text_for(tokenizer), SPECIAL_TEXT, "", " x ", "½ＡＢ\t。"):
        ids = tokenizer.encode(text)
        starts, offsets = tokenizer.word_starts(text), tokenizer.offsets(text)
        assert len(starts) == len(offsets) == len(ids)
        assert not ids or starts[0]
        assert all(0 <= begin <= end <= len(text) for begin, end in offsets)
        assert offsets == sorted(offsets)


def test_offsets_cover_every_character_that_is_no_space(tokenizer):
    text = text_for(tokenizer)
    covered = {index for begin, end in tokenizer.offsets(text) for index in range(begin, end)}
    assert {index for index, character in enumerate(text) if not character.isspace()} <= covered


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer):
    for encode in (
        tokenizer.encode,
        tokenizer.normalise,
        tokenizer.word_starts,
        lambda t: tokenizer.encode_batch([t]),
    ):
        with pytest.raises(UsageError, match=r"lone surrogate, U\+D800, at character 2"):
            encode("ab\ud800c")


def test_an_id_outside_the_vocabulary_is_refused(tokenizer):
    for wrong in (-1, 1024):
        with pytest.raises(DamagedError, match="outside the vocabulary"):
            tokenizer.decode([wrong])


def test_the_same_text_gives_the_same_bytes(tokenizer, sample_texts):
    whole_words = "whole_words" in tokenizer.options()
    again = train_tokenizer(tokenizer.kind, sample_texts(tokenizer.kind), 1024, whole_words=whole_words)
    assert again.model_files() == tokenizer.model_files()


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_text_names_the_largest_size_which_can_be_had(kind):
    texts = ["the cat and the cat sat. 我们去学校，我们去。\n"] * 3
    with pytest.raises(UsageError, match="largest possible is") as raised:
        train_tokenizer(kind, texts, 20_000)
    largest = int(str(raised.value).split("largest possible is ")[1].split(";")[0].replace(",", ""))
    assert train_tokenizer(kind, texts, 20_000, allow_smaller=True).vocab_size == largest
    assert train_tokenizer(kind, texts, largest).vocab_size == largest


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_below_the_special_tokens_is_refused(kind):
    with pytest.raises(UsageError, match="at least"):
        train_tokenizer(kind, ["text"], 4)


def test_an_unknown_kind_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'gpt-zh'"):
        train_tokenizer("gpt-zn", ["x"], 100)


def test_nothing_there_is_missing_and_anything_changed_is_damaged(tokenizer, tmp_path):
    with pytest.raises(MissingError):
        load_tokenizer(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=META):
        load_tokenizer(tmp_path / "empty")
    folder = tmp_path / "t"
    tokenizer.save(folder)
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    model = folder / meta["files"][0]
    good = model.read_bytes()
    for bad in (good[:-20], good[:100] + b"\x00\xff" + good[102:], b""):
        model.write_bytes(bad)
        with pytest.raises(DamagedError):
            load_tokenizer(folder)
    model.write_bytes(good)
    for change in (
        {"vocab_size": 1023},
        {"kind": "gpt-xx"},
        {"format": "other"},
        {"files": ["../x"]},
        {"options": {"a": 1}},
    ):
        (folder / META).write_text(json.dumps(meta | change), encoding="utf-8")
        with pytest.raises(DamagedError):
            load_tokenizer(folder)
    (folder / META).write_text("{", encoding="utf-8")
    with pytest.raises(DamagedError):
        load_tokenizer(folder)


def test_a_model_of_garbage_with_a_right_fingerprint_is_damaged(tokenizer, tmp_path):
    from fpm_cli.tokenization.store import write_directory

    name = next(iter(tokenizer.model_files()))
    garbage = {name: b"\xff\x00 no model"}
    for index, options in enumerate((tokenizer.options(), {})):
        folder = tmp_path / str(index)
        write_directory(
            folder, kind=tokenizer.kind, vocab_size=1024, options=options, files=garbage, hf_inexact=None
        )
        with pytest.raises(DamagedError):
            load_tokenizer(folder)


def test_specials_and_sentinels_are_where_the_published_ones_are(trained):
    for kind in ("gpt-zh", "t5-zh", "t5-en"):
        assert trained(kind).tokens(range(8)) == [
            "<unk>",
            "<s>",
            "</s>",
            "▃",
            "<sep>",
            "<pad>",
            "<mask>",
            "<eod>",
        ]
        assert trained(kind).special.eod == 7
    for kind in ("t5-zh", "t5-en"):
        assert trained(kind).special.sentinels == tuple(range(1024 - 190, 1024))
    for kind in ("bert-en", "bert-zh"):
        assert trained(kind).tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert trained("gpt-en").tokens([1023]) == ["<|endoftext|>"]
    assert trained("gpt-en").decode([1023]) == "<|endoftext|>"


def test_whole_chinese_words_begin_where_jieba_says(trained):
    bert = trained("bert-zh")
    text = "我们今天去学校 hello"
    flags = dict(zip((text[b:e] for b, e in bert.offsets(text)), bert.word_starts(text), strict=True))
    assert [flags[c] for c in "我们今天去学校"] == [True, False, True, False, True, True, False]


def test_bert_can_keep_chinese_words_whole_with_pieces_within_them(trained):
    bert, apart = trained("bert-zh with whole words"), trained("bert-zh")
    text = "我们今天去学校，T恤 和 C++ hello"
    shown = [text[b:e] for b, e in bert.offsets(text)]
    words = ["我们", "今天", "去", "学校", "，", "T恤", "和", "C", "+", "+", "hello"]
    begins = [i for i, start in enumerate(bert.word_starts(text)) if start]
    ends = [*begins[1:], len(shown)]
    assert ["".join(shown[a:b]) for a, b in zip(begins, ends, strict=True)] == words
    assert shown[0] == "我们"  # a frequent one is one piece
    assert bert.word_starts(text) == [not token.startswith("##") for token in bert.tokens(bert.encode(text))]
    english = TEXTS["en"]
    assert bert.normalise(english) == apart.normalise(english)
    assert bert.fingerprint != apart.fingerprint


def test_other_kinds_refuse_whole_words():
    with pytest.raises(UsageError, match="an option of bert-zh"):
        train_tokenizer("bert-en", ["text"] * 9, 100, whole_words=True)


def test_pieces_inside_an_english_word_begin_none(trained):
    bert = trained("bert-en")
    text = "extraordinarily unremarkable"
    tokens = bert.tokens(bert.encode(text))
    assert bert.word_starts(text) == [not token.startswith("##") for token in tokens]
    assert sum(bert.word_starts(text)) == 2


def test_a_hugging_face_file_is_exact_or_said_not_to_be(tokenizer, tmp_path):
    from tokenizers import Tokenizer as HfTokenizer

    tokenizer.save(tmp_path / "t")
    meta = json.loads((tmp_path / "t" / META).read_text(encoding="utf-8"))
    file = tmp_path / "t" / "tokenizer.json"
    if tokenizer.hf_inexact is None:
        assert meta["hf_tokenizer_json"] == "exact"
        theirs = HfTokenizer.from_file(str(file))
        for text in (*TEXTS.values(), SPECIAL_TEXT):
            assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
    else:
        assert meta["hf_tokenizer_json"].startswith("none: ") and not file.exists()
