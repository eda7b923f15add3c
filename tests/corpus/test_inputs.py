"""What a folder holds is read, or passed over by name; any name that the file system allows will do."""

import gzip
import os
from pathlib import Path

import pytest

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.inputs import describe_skipped, find_inputs
from fpm_cli.corpus.options import build_options
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tokenization.base import Tokenizer
from tests.corpus.builds import build_files, documents, skipped


def lines(*texts: str) -> bytes:
    return b"".join(b'{"text": "%s"}\n' % text.encode() for text in texts)


def test_suffixes_are_compared_without_case(tmp_path: Path, gpt: Tokenizer) -> None:
    contents = {
        "a.JSONL": lines("one", "two"),
        "b.jsonl.GZ": gzip.compress(lines("three")),
        "c.Jsonl.gz": gzip.compress(lines("four")),
    }
    corpus = build_files(tmp_path, contents, gpt, "jsonl", validation_fraction=0)
    assert documents(corpus) == ["four", "one", "three", "two"]
    assert skipped(corpus) == {}


def test_pile_partitions_are_selected_without_case(tmp_path: Path) -> None:
    for name in ("02.JSONL", "05.jsonl", "notes.jsonl"):
        (tmp_path / name).write_bytes(lines("text"))
    found = find_inputs([tmp_path], build_options("pile"))
    assert [file.name for file in found.inputs] == ["02.JSONL", "notes.jsonl"]
    assert [(file.name, file.reason) for file in found.skipped] == [("05.jsonl", "partition_not_selected")]


def test_whatever_is_passed_over_is_named_with_its_reason(tmp_path: Path, gpt: Tokenizer) -> None:
    inputs, outside = tmp_path / "in", tmp_path / "outside"
    (inputs / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "x.jsonl").write_bytes(lines("outside"))
    (inputs / "noextension").write_bytes(lines("three"))
    (inputs / "image.png").write_bytes(b"png")
    (inputs / "README.md").write_text("about")
    (inputs / "dangling.jsonl").symlink_to("absent.jsonl")
    (inputs / "loop.jsonl").symlink_to("loop.jsonl")
    (inputs / "up").symlink_to("..")
    (inputs / "within.jsonl").symlink_to("sub/a.jsonl")
    os.mkfifo(inputs / "pipe.jsonl")
    (inputs / "sub" / "a.jsonl").write_bytes(lines("one", "two"))
    corpus = build_files(tmp_path, {}, gpt, "jsonl", validation_fraction=0)
    assert documents(corpus) == ["one", "two"]
    assert skipped(corpus) == {
        "README.md": "other_suffix",
        "dangling.jsonl": "dangling_link",
        "image.png": "other_suffix",
        "loop.jsonl": "link_loop",
        "noextension": "other_suffix",
        "pipe.jsonl": "not_a_file",
        "up": "linked_folder",
    }
    card = (corpus.path / "README.md").read_text()
    assert "| loop.jsonl | link_loop |" in card
    said = describe_skipped(corpus.manifest.skipped)
    assert "other_suffix 3: README.md, image.png, noextension" in said
    corpus.verify()


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.jsonl").write_bytes(lines("secret"))
    (tmp_path / "in" / "a.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(UsageError, match="leads out of the folder"):
        find_inputs([tmp_path / "in"], build_options("jsonl"))


def test_a_folder_with_nothing_to_read_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(MissingError, match=r"no \.jsonl or .* file in it.*other_suffix 1: a\.csv"):
        find_inputs([tmp_path], build_options("jsonl"))


@pytest.mark.parametrize(
    "name",
    [
        b"na\xffme.txt",
        "名字.txt".encode(),
        b"line\nbreak.txt",
        b"[bold]\t'\".txt",
        b"-dash.txt",
        b"\\xff.txt",
    ],
)
def test_any_file_name_is_read_and_recorded(tmp_path: Path, gpt: Tokenizer, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(b"in\xfe")
    folder.mkdir()
    path = folder / os.fsdecode(name)
    path.write_bytes(b"one\n\ntwo \xff\n\nthree")
    (folder / os.fsdecode(name + b".png")).write_bytes(b"")
    options = build_options("text", near_duplicates=0)
    for number, given in enumerate([path, folder]):
        out = tmp_path / os.fsdecode(b"corpus\xfd%d" % number)
        corpus = build_corpus([given], gpt, out, options).corpus
        assert documents(corpus) == ["one", "three", "two"]
        assert corpus.manifest.inputs[0].name == name.decode(errors="backslashreplace")
        corpus.verify()
