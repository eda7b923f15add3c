"""`fpm tokenize` as a user types it."""

import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import zstandard

from fpm_cli.cli import tokenize
from fpm_cli.cli.app import run
from fpm_cli.tokenization import KINDS

TEXT = {
    "en": "It was the best of times, it was the worst of times.\nDon't stop now!\n" * 30,
    "zh": "今天天气很好，我们去学校。\n第二行 has words\n" * 30,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for language, text in TEXT.items():
        (tmp_path / f"{language}.txt").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fpm(command: str) -> int:
    return run(["tokenize", *shlex.split(command)])


def train(kind: str, out: str = "t") -> None:
    assert fpm(f"train --kind {kind} --vocab-size 5000 --allow-smaller {kind[-2:]}.txt --out {out}") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_text_goes_through_ids_and_back(kind, folder, capsys):
    train(kind)
    text = TEXT[kind[-2:]]
    capsys.readouterr()
    assert fpm(f"encode --tokenizer t {kind[-2:]}.txt --json --out ids.jsonl.zst") == 0
    assert fpm("decode --tokenizer t ids.jsonl.zst") == 0
    from fpm_cli.tokenization import load_tokenizer

    loaded = load_tokenizer(folder / "t")
    assert capsys.readouterr().out == "".join(loaded.normalise(line) + "\n" for line in text.splitlines())
    lines = zstandard.ZstdDecompressor().stream_reader((folder / "ids.jsonl.zst").read_bytes()).read()
    for line in lines.decode().splitlines():
        document = json.loads(line)
        assert document.keys() == {"ids", "tokens"}
        assert loaded.tokens(document["ids"]) == document["tokens"]


def test_standard_input_and_output(folder, capsys, monkeypatch):
    train("gpt-en")
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"best of times\n\nworst\n")))
    assert fpm("encode --tokenizer t") == 0
    ids = capsys.readouterr().out
    assert len(ids.splitlines()) == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ids.encode())))
    assert fpm("decode --tokenizer t -") == 0
    assert capsys.readouterr().out == "best of times\n\nworst\n"


def test_several_processes_give_the_same_lines_in_order(folder, capsys):
    train("gpt-zh")
    (folder / "many.txt").write_text(
        "".join(f"第{i}行，今天天气很好\n" for i in range(60_000)), encoding="utf-8"
    )
    assert fpm("encode --tokenizer t many.txt --out one.txt") == 0
    assert fpm("encode --tokenizer t many.txt --out two.txt --workers 2") == 0
    assert (folder / "one.txt").read_bytes() == (folder / "two.txt").read_bytes()


def test_a_trained_folder_describes_itself(folder, capsys):
    assert fpm("train --kind t5-en --vocab-size 5000 --allow-smaller en.txt --out t --json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fpm.tokenize-train/1"
    assert (document["kind"], document["sentinels"], document["special"]["eod"]) == ("t5-en", 190, 7)
    assert fpm("inspect --tokenizer t --json") == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == document["fingerprint"]


def test_the_same_text_trains_the_same_bytes_in_another_process(folder):
    code = (
        "import sys; from fpm_cli.tokenization import KINDS, train_tokenizer\n"
        "for kind in KINDS:\n"
        "    text = open(kind[-2:] + '.txt', encoding='utf-8').read()\n"
        "    print(train_tokenizer(kind, [text], 400, allow_smaller=True).fingerprint)\n"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, check=True, env=environment, capture_output=True).stdout)
    assert len(found) == 1 and len(found.pop().split()) == len(KINDS)


def test_inspect_shows_pieces_and_rates(folder, capsys):
    train("gpt-zh")
    capsys.readouterr()
    assert fpm("inspect --tokenizer t --text '今天天气很好 龘' --json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fpm.tokenize-inspect/1"
    counts = [document[key] for key in ("texts", "characters", "unknown", "changed")]
    assert counts == [1, 8, 1, 1]
    assert "".join(piece["text"] for piece in document["pieces"]) == "今天天气很好 龘"
    assert document["tokens_per_character"] == document["tokens"] / 8
    assert fpm("inspect --tokenizer t zh.txt") == 0
    table = capsys.readouterr().out
    assert "今" in table and "unknown rate" in table
    assert fpm("inspect --tokenizer t zh.txt --json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["texts"] == document["exact"] + document["normalised"] + document["changed"] == 60


def test_bytes_that_are_not_utf8_stop_are_replaced_or_skipped(folder, capsys):
    train("gpt-en")
    (folder / "bad.txt").write_bytes(b"good\nb\xffd\n")
    assert fpm("encode --tokenizer t bad.txt") == 6
    assert "bad.txt is not UTF-8 at byte 6" in capsys.readouterr().err
    assert fpm("encode --tokenizer t bad.txt --errors replace --json") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2 and "1 lines replaced 1 bad" in captured.err
    assert fpm("encode --tokenizer t bad.txt --errors skip --json") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 and "1 lines skipped" in captured.err


@pytest.mark.parametrize(
    "command, status, said",
    [
        ("encode none.txt --tokenizer t", 3, "no file none.txt"),
        ("encode en.txt --tokenizer none", 3, "no tokenizer at none"),
        ("encode en.txt --tokenizer none --workers 2", 3, "no tokenizer at none"),
        ("encode en.txt", 2, "either --tokenizer FOLDER or --published"),
        ("encode en.txt --tokenizer t --published t", 2, "either"),
        ("encode en.txt --published t", 2, "needs --kind"),
        ("encode en.txt --published none --kind gpt-en", 3, "none"),
        ("encode en.txt --published en.txt --kind bert-en", 6, "not a bert-en vocabulary"),
        ("encode en.txt --published en.txt --kind bert", 2, "did you mean"),
        ("train --kind gpt-en en.txt --out t", 2, "exists"),
        ("train --kind gpt-en en.txt --out u", 2, "largest possible is"),
        ("train --kind gpt-en en.txt --out u --vocab-size 0", 2, "vocab-size"),
        ("decode ids.txt --tokenizer t", 2, "line 1 is neither numbers nor JSON"),
        ("decode far.txt --tokenizer t", 6, "outside the vocabulary"),
        ("encode en.txt --tokenizer t --workers 0", 2, "workers"),
    ],
)
def test_a_mistake_is_named_with_its_status(command, status, said, folder, capsys):
    train("gpt-en")
    (folder / "ids.txt").write_text("x\n1 2\n", encoding="utf-8")
    (folder / "far.txt").write_text('{"ids": [1, 99999]}\n', encoding="utf-8")
    capsys.readouterr()
    assert fpm(command) == status
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err
    assert not (folder / "u").exists()


def test_a_changed_model_is_damaged(folder, capsys):
    train("gpt-zh")
    model = folder / "t" / "sentencepiece.model"
    model.write_bytes(model.read_bytes()[:-1])
    assert fpm("inspect --tokenizer t") == 6
    assert "fingerprint" in capsys.readouterr().err


def test_published_files_are_read_and_imported(folder, capsys, shared_data):
    gpt2 = shared_data / "vocab_gpt2"
    assert fpm(f"inspect --published {gpt2} --kind gpt-en --text 'Hello world' --json") == 0
    assert [piece["id"] for piece in json.loads(capsys.readouterr().out)["pieces"]] == [15496, 995]
    assert fpm(f"import --published {gpt2} --kind gpt-en --out gpt2") == 0
    capsys.readouterr()
    (folder / "hello.txt").write_text("Hello world", encoding="utf-8")
    assert fpm("encode --tokenizer gpt2 hello.txt") == 0
    assert capsys.readouterr().out == "15496 995\n"


@pytest.mark.parametrize("verb", ["train", "encode", "decode", "inspect", "import"])
def test_help_ends_with_two_examples(verb, capsys):
    assert fpm(f"{verb} --help") == 0
    examples = capsys.readouterr().out.split("Examples:")[1]
    assert len(re.findall(r"fpm tokenize", examples)) == 2


def test_help_imports_no_tokenizer_library():
    heavy = "torch tokenizers sentencepiece jieba rjieba nltk numpy transformers gigatoken nanotoken"
    code = (
        "import sys; from fpm_cli.cli.app import run; run(['tokenize', 'encode', '--help']); "
        f"print([name for name in {heavy!r}.split() if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_every_verb_is_here():
    assert {command.name or command.callback.__name__ for command in tokenize.app.registered_commands} == {
        *("train", "encode", "decode", "inspect", "import")
    }
