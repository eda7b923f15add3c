"""`fpm build-corpus` and `fpm corpus`: what they print, and how they exit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.cli.app import run
from fpm_cli.tokenization import train_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    train_tokenizer("gpt-en", ["a"], 257).save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text("\n\n".join(f"Story {i} begins. It ends, {i}." for i in range(40)))
    return str(tmp_path / "a.txt")


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_a_corpus_is_built_verified_and_looked_into(
    tmp_path: Path, tokenizer: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "corpus")
    arguments = ["build-corpus", "text", text, "--tokenizer", tokenizer, "--out", out, "--workers", "1"]
    arguments += ["--near-duplicates", "0", "--validation-fraction", "0.2"]
    assert run([*arguments, "--json"]) == 0
    built = printed(capsys)
    assert built["schema"] == "fpm.build-corpus/1"
    assert built["documents_read"] == built["documents_kept"] == 40
    assert built["dropped"] == {}
    assert built["bytes_in"] == Path(text).stat().st_size
    assert built["tokens"] == sum(split["tokens"] for split in built["splits"].values())
    assert built["seconds"] > 0 and len(built["fingerprint"]) == 32
    assert run(arguments) == 2
    assert "never overwritten" in capsys.readouterr().err

    assert run(["corpus", "verify", out, "--json"]) == 0
    assert printed(capsys)["fingerprint"] == built["fingerprint"]
    assert run(["corpus", "inspect", out, "--samples", "1", "--sequence-length", "16", "--json"]) == 0
    inspected = printed(capsys)
    assert inspected["manifest"]["counts"]["documents_kept"] == 40
    assert len(inspected["samples"][0]["text"]) == 16
    assert run(["corpus", "inspect", out]) == 0
    assert "40 documents read, 40 kept" in capsys.readouterr().out

    data = bytearray(Path(out, "train.bin").read_bytes())
    data[5] ^= 1
    Path(out, "train.bin").write_bytes(data)
    assert run(["corpus", "verify", out]) == 6
    assert "train.bin" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bert-zh", "t5-zh"])
def test_masks_and_spans_are_shown(tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "\n\n".join(f"这是第{i}个故事。它到此为止。人们都说好。" for i in range(60))
    (tmp_path / "a.txt").write_text(lines)
    train_tokenizer(kind, lines.split("\n\n"), 200, allow_smaller=True).save(tmp_path / "tokenizer")
    out = str(tmp_path / "corpus")
    arguments = ["build-corpus", "text", str(tmp_path / "a.txt"), "--out", out, "--workers", "1"]
    assert run([*arguments, "--tokenizer", str(tmp_path / "tokenizer"), "--near-duplicates", "0"]) == 0
    capsys.readouterr()
    assert run(["corpus", "inspect", out, "--sequence-length", "40", "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert ("[MASK]{" in shown and "sentence order" in shown) if kind == "bert-zh" else "decoder" in shown


@pytest.mark.parametrize("kind", ["gpt-en", "t5-en"])
def test_a_corpus_too_small_for_a_sample_shows_its_documents(
    tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"Story {i} begins here. It ends there." for i in range(3)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    train_tokenizer(kind, texts * 9, 300, allow_smaller=True).save(tmp_path / "tokenizer")
    arguments = ["build-corpus", "text", str(tmp_path / "a.txt"), "--out", str(tmp_path / "corpus")]
    arguments += ["--workers", "1", "--near-duplicates", "0"]
    assert run([*arguments, "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    capsys.readouterr()
    for split, number in (("train", 2), ("validation", 1)):
        assert run(["corpus", "inspect", str(tmp_path / "corpus"), "--split", split, "--json"]) == 0
        inspected = printed(capsys)
        assert "too small" in inspected["note"]
        shown = [sample["document"].lower().replace("\n", " ") for sample in inspected["samples"]]
        assert len(shown) == number and set(shown) <= {text.lower() for text in texts}
    assert run(["corpus", "inspect", str(tmp_path / "corpus")]) == 0
    output = capsys.readouterr()
    assert "3 documents read, 3 kept" in output.out and "begins here" in output.out
    assert "no sample of 64 tokens" in output.err


def test_what_is_not_read_is_told_in_the_last_lines(
    tmp_path: Path, tokenizer: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Path(text).rename(tmp_path / "in" / "a.TXT")
    (tmp_path / "in" / "b.txt").write_bytes("这是另一种编码的文字。".encode("gbk") * 9)
    (tmp_path / "in" / "noextension").write_text("some text")
    arguments = ["build-corpus", "text", str(tmp_path / "in"), "--tokenizer", tokenizer, "--workers", "1"]
    assert run([*arguments, "--out", str(tmp_path / "corpus")]) == 0
    told = capsys.readouterr().err
    assert "not read: not_utf8 1: b.txt (likely gb18030: --encoding gb18030 or auto reads it)" in told
    assert "other_suffix 1: noextension" in told
    arguments += ["--out", str(tmp_path / "corpus-2"), "--encoding", "auto", "--document", "file", "--json"]
    assert run(arguments) == 0
    document = printed(capsys)
    assert document["documents_kept"] == 2
    assert document["skipped"] == [{"name": "noextension", "reason": "other_suffix", "detail": ""}]


def test_mistakes_say_what_and_where(
    tmp_path: Path, tokenizer: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(status: int, *arguments: str) -> str:
        out = ["--tokenizer", tokenizer, "--out", str(tmp_path / "corpus"), "--workers", "1"]
        assert run(["build-corpus", *arguments, *out]) == status
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    assert "did you mean 'wudao'" in error(2, "wudoa", text)
    assert "absent.txt is not there" in error(3, "text", str(tmp_path / "absent.txt"))
    assert "no .jsonl" in error(3, "jsonl", str(tmp_path / "empty"))
    assert run(["corpus", "verify", str(tmp_path / "absent")]) == 3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fpm_cli.cli.app import run; run(['build-corpus', '--help']); "
        "heavy = {'numpy', 'torch', 'tokenizers', 'rensa', 'ray'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fpm build-corpus wudao" in done.stdout.replace("\n  ", " ")
