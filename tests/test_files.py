"""Files are replaced whole or not at all, and an error names the file that could not be written."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from fpm_cli.cli.app import run as fpm
from fpm_cli.errors import UsageError
from fpm_cli.files import Disk, FileFacts, atomic_write, hash_file, new_folder, replace_file, write_file

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")  # as write and fsync report it: without a name


class FullDisk(Disk):
    def write(self, descriptor: int, data: memoryview) -> int:
        raise NO_SPACE


def fill_replaced_file(path: Path) -> None:
    replace_file(path, b"new", FullDisk())


def fill_written_file(path: Path) -> None:
    write_file(path, [b"new"], FullDisk())


def fill_streamed_file(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"new")
        raise NO_SPACE


def fill_folder(path: Path) -> None:
    with new_folder(path) as folder:
        folder.mkdir()
        raise NO_SPACE


@pytest.mark.parametrize("fill", [fill_replaced_file, fill_written_file, fill_streamed_file, fill_folder])
def test_a_full_disk_names_what_could_not_be_written(fill: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as error:
        fill(tmp_path / "target")
    assert Path(error.value.filename).name in ("target", ".target.tmp")


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        fill_streamed_file(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]
    assert path.read_bytes() == b"old"


def test_a_replaced_file_has_the_new_content_and_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "target"
    (tmp_path / ".target.tmp").write_bytes(b"left by a crash")
    replace_file(path, b"content")
    assert path.read_bytes() == b"content"
    assert hash_file(path) == FileFacts(bytes=7, xxh3_128=xxhash.xxh3_128_hexdigest(b"content"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_a_new_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    assert (tmp_path / "empty/file").is_file()
    with pytest.raises(UsageError, match="already there"), new_folder(tmp_path / "empty"):
        pass


def test_the_command_line_says_which_file_a_full_disk_could_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Disk, "write", FullDisk.write)
    out = tmp_path / "scores.html"
    assert fpm(["cost-report", "--html", str(out)]) == 1
    message = capsys.readouterr().err
    assert "No space left on device" in message and out.name in message
