"""The same bytes come out whatever the workers, the shards and the interruptions."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fpm_cli.corpus.build import Execution, build_corpus
from fpm_cli.corpus.options import build_options
from fpm_cli.errors import FpmError, UsageError
from fpm_cli.tokenization.base import Tokenizer

OPTIONS = build_options("jsonl", id_field="id", validation_fraction=0.1)


def write_inputs(folder: Path, num_files: int, documents: int) -> Path:
    """Files, one of them an archive, with exact, near and id duplicates among them, and defects."""
    folder.mkdir()
    rng = random.Random(7)
    words = ["story", "begins", "ends", "here", "there", "完了。", "一二三", "good", "bad", "故事"]
    earlier: list[str] = []
    for number in range(num_files):
        with (folder / f"{number:02}.jsonl").open("w") as file:
            for index in range(documents):
                text = ". ".join(" ".join(rng.choices(words, k=9)) for _ in range(12))
                if earlier and index % 5 == 0:
                    text = rng.choice(earlier) + (" x" if index % 2 else "")
                earlier.append(text)
                file.write(json.dumps({"text": text, "id": rng.randrange(num_files * documents * 9)}) + "\n")
            file.write('{"text": broken\n')
    last = folder / f"{num_files - 1:02}.jsonl"
    last.with_suffix(".jsonl.gz").write_bytes(gzip.compress(last.read_bytes()))
    last.unlink()
    return folder


def bytes_of(corpus: Path) -> dict[str, bytes]:
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    return {path.relative_to(corpus).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_workers_and_shards_change_no_byte(
    tmp_path: Path, kind: str, gpt: Tokenizer, bert: Tokenizer
) -> None:
    inputs = write_inputs(tmp_path / "in", 3, 200)
    tokenizer = gpt if kind == "gpt" else bert
    executions = {"one": Execution(), "two": Execution(workers=2), "small": Execution(shard_bytes=20_000)}
    if kind == "bert":
        del executions["two"]  # the same code, and workers take seconds to start
    built = {
        name: build_corpus([inputs], tokenizer, tmp_path / name, OPTIONS, execution).corpus
        for name, execution in executions.items()
    }
    dropped = built["one"].manifest.counts.dropped
    assert {"exact_duplicate", "near_duplicate", "duplicate_id", "broken_json"} <= dropped.keys()
    expected = bytes_of(tmp_path / "one")
    for name in built:
        assert bytes_of(tmp_path / name) == expected


def test_a_different_build_names_what_differs_from_the_unfinished_one(
    tmp_path: Path, gpt: Tokenizer, bert: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_inputs(tmp_path / "in", 2, 20)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("fpm_cli.corpus.assemble.merge_split", fail)
        with pytest.raises(OSError, match="disk is full"):
            build_corpus([inputs], gpt, tmp_path / "corpus", OPTIONS)
    assert not (tmp_path / "corpus").exists()
    other = OPTIONS.model_copy(update={"min_characters": 3})
    with pytest.raises(UsageError, match=r"with other options \(min_characters: 1, now 3\)"):
        build_corpus([inputs], gpt, tmp_path / "corpus", other)
    with pytest.raises(UsageError, match=r"with other tokenizer \("):
        build_corpus([inputs], bert, tmp_path / "corpus", OPTIONS)
    with pytest.raises(UsageError, match=r"with other shard_bytes \(67108864, now 99\)"):
        build_corpus([inputs], gpt, tmp_path / "corpus", OPTIONS, Execution(shard_bytes=99))
    with pytest.raises(UsageError, match=r"with other inputs \(removed: 01\.jsonl\.gz\)"):
        build_corpus([inputs / "00.jsonl"], gpt, tmp_path / "corpus", OPTIONS)
    (inputs / "02.jsonl").write_text('{"text": "new"}')
    os.utime(inputs / "00.jsonl", (0, 0))
    with pytest.raises(UsageError, match=r"with other inputs \(added: 02\.jsonl; modified: 00\.jsonl\)"):
        build_corpus([inputs], gpt, tmp_path / "corpus", OPTIONS)
    with (inputs / "00.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match=r"size changed: 00\.jsonl"):
        build_corpus([inputs], gpt, tmp_path / "corpus", OPTIONS)
    shutil.rmtree(tmp_path / "corpus.building")
    build_corpus([inputs], gpt, tmp_path / "corpus", OPTIONS)
    assert not (tmp_path / "corpus.building").exists()


def test_two_builds_of_one_corpus_are_refused(tmp_path: Path, gpt: Tokenizer) -> None:
    from filelock import FileLock

    inputs = write_inputs(tmp_path / "in", 2, 20)
    (tmp_path / "corpus.building").mkdir()
    with (
        FileLock(tmp_path / "corpus.building" / "lock"),
        pytest.raises(FpmError, match="another process is building"),
    ):
        build_corpus([inputs], gpt, tmp_path / "corpus", OPTIONS)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.long)])
def test_killed_builds_end_in_the_same_bytes(tmp_path: Path, gpt: Tokenizer, kills: int) -> None:
    inputs = write_inputs(tmp_path / "in", 12, 150 if kills < 10 else 2500)
    gpt.save(tmp_path / "tokenizer")
    build_corpus([inputs], gpt, tmp_path / "expected", OPTIONS)
    expected = bytes_of(tmp_path / "expected")
    rng = random.Random(kills)
    killed = finished = 0
    while killed < kills:
        out = tmp_path / f"corpus-{finished}"
        while not out.exists() or out.with_name(f"{out.name}.building").exists():
            seconds = rng.uniform(1.0, 3.0 if kills < 10 else 7.0) if killed < kills else None
            ends = _run(inputs, tmp_path / "tokenizer", out, seconds)
            killed += ends == -signal.SIGKILL
            assert ends in (0, -signal.SIGKILL)
        assert bytes_of(out) == expected
        finished += 1
    print(f"{killed} kills over {finished} builds")


def _run(inputs: Path, tokenizer: Path, out: Path, kill_after_seconds: float | None) -> int:
    """Build by the command line in a process group of its own; SIGKILL all of it after a while."""
    command = [sys.executable, "-m", "fpm_cli", "-q", "build-corpus", "jsonl", str(inputs), "--out", str(out)]
    command += ["--tokenizer", str(tokenizer), "--id-field", "id", "--validation-fraction", "0.1"]
    process = subprocess.Popen(
        [*command, "--workers", "2"], start_new_session=True, stdout=subprocess.DEVNULL
    )
    if kill_after_seconds is not None:
        deadline = time.monotonic() + kill_after_seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
