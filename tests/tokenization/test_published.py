"""Published vocabularies give the published ids: against independent implementations, line by line."""

import json
import sys
from itertools import islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `texts`; tests are no package

from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.tokenization import load_published
from tests.tokenization.texts import lines_of

FILES = {
    "gpt-en": "vocab_gpt2",
    "gpt-zh": "vocab_cpm1",
    "t5-zh": "vocab_cpm2/bpe_cn",
    "bert-en": "vocab_bert/bert-base-uncased-vocab.txt",
    "bert-zh": "vocab_bert/bert-base-chinese-vocab.txt",
}
BATCH = 2000


@pytest.fixture(scope="module", params=FILES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def ours(kind, shared_data):
    return load_published(kind, shared_data / FILES[kind])


@pytest.fixture(scope="module")
def reference(kind, shared_data):
    return REFERENCES[kind](shared_data / FILES[kind])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_ids_of_a_thousand_lines_are_the_references(ours, reference, shared_data, language):
    lines = list(islice(lines_of(shared_data, language), 0, 400_000, 400))
    assert len(lines) == 1000
    assert ours.encode_batch(lines) == [reference(line) for line in lines]
    assert [ours.encode(line) for line in lines[:200]] == [reference(line) for line in lines[:200]]


@pytest.mark.long
@pytest.mark.parametrize("language", ["en", "zh"])
def test_ids_of_every_line_are_the_references(ours, reference, shared_data, language, capsys):
    lines, compared = lines_of(shared_data, language), 0
    while batch := list(islice(lines, BATCH)):
        for line, mine in zip(batch, ours.encode_batch(batch), strict=True):
            assert mine == reference(line), line
        compared += len(batch)
    with capsys.disabled():
        print(f"\n{ours.kind}: {compared:,} lines of {language} identical")


def bert(path):
    """transformers' BertTokenizer, told that a special token in the text is text."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(str(path), do_lower_case=True)
    return lambda text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def gpt2(folder):
    """tiktoken with GPT-2's ranks and pattern."""
    import tiktoken

    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    ranks = {bytes(byte_of[c] for c in piece): i for piece, i in vocabulary.items() if i < 50_256}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    return tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    ).encode_ordinary


def jieba_words():
    import logging

    import jieba

    jieba.setLogLevel(logging.ERROR)
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer.cut


def cpm1(folder):
    """jieba, the marks, SentencePiece (TsinghuaAI/CPM-1-Generate, data_utils/tokenization_gpt2.py)."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "chinese_vocab.model"))
    cut, marks = jieba_words(), str.maketrans(" \n", "\u2582\u2583")
    return lambda text: pieces.encode(" ".join(word.translate(marks) for word in cut(text)))


def cpm2(folder):
    """jieba, the marks, longest match (TsinghuaAI/CPM-2-Finetune, tokenization_enc_dec.py)."""
    ids = {}
    for line in (folder / "vocab.txt").read_text(encoding="utf-8").splitlines():
        ids[line.strip()] = len(ids)
    cut, marks = jieba_words(), str.maketrans(" \n", "\u2582\u2583")

    def half(character):
        code = 0x20 if character == "\u3000" else ord(character) - 0xFEE0
        return character if character in "，。！（）？、；：" or not 0x20 <= code <= 0x7E else chr(code)

    def encode(text):
        found = []
        for word in cut("".join(map(half, text))):
            rest = word.translate(marks)
            if len(rest) > 200:
                found.append(ids["<unk>"])
                continue
            while rest:
                size = next((n for n in range(len(rest), 0, -1) if rest[:n] in ids), 0)
                found.append(ids[rest[:size]] if size else ids["<unk>"])
                rest = rest[max(size, 1) :]
        return found

    return encode


REFERENCES = {"gpt-en": gpt2, "gpt-zh": cpm1, "t5-zh": cpm2, "bert-en": bert, "bert-zh": bert}


def test_ten_thousand_questions_have_the_golden_ids(shared_data):
    golden = shared_data / "golden_tokenization" / "Tests" / "TokenizersTests" / "Resources"
    questions = json.loads((golden / "question_tokens.json").read_text(encoding="utf-8"))
    expected = json.loads((golden / "tokenized_questions.json").read_text(encoding="utf-8"))
    tokenizer = load_published("bert-en", golden / "bert-vocab.txt")
    assert len(questions) == len(expected) == 10_570
    assert tokenizer.encode_batch([question["original"] for question in questions]) == expected


def test_a_published_vocabulary_stored_as_ours_is_the_same(ours, tmp_path):
    from fpm_cli.tokenization import load_tokenizer

    ours.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.fingerprint == ours.fingerprint
    assert loaded.encode("Hello 世界 <eod>") == ours.encode("Hello 世界 <eod>")


def test_sizes_are_the_published_ones(ours):
    sizes = {"gpt-en": 50_257, "gpt-zh": 30_000, "t5-zh": 26_240, "bert-en": 30_522, "bert-zh": 21_128}
    assert ours.vocab_size == sizes[ours.kind]
    if ours.kind == "t5-zh":
        assert ours.special.sentinels == tuple(range(26_050, 26_240))


def test_a_wrong_file_is_damaged_and_no_file_is_missing(kind, tmp_path, shared_data):
    with pytest.raises(MissingError):
        load_published(kind, tmp_path / "none")
    with pytest.raises(MissingError):
        load_published(kind, tmp_path)
    wrong = tmp_path / "encoder.json"
    wrong.write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(DamagedError):
        load_published(kind, wrong)


def test_several_vocabularies_in_a_folder_must_be_named(shared_data):
    with pytest.raises(UsageError, match="several"):
        load_published("bert-en", shared_data / "vocab_bert")


def test_no_t5_en_was_published(tmp_path):
    with pytest.raises(UsageError, match="ever published"):
        load_published("t5-en", tmp_path)


def test_the_chinese_english_vocabulary_of_cpm2_is_refused(shared_data):
    with pytest.raises(DamagedError, match="not CPM's"):
        load_published("t5-zh", shared_data / "vocab_cpm2" / "bpe_cn_en" / "vocab.txt")
