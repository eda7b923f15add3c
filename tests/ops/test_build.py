"""Building the compiled operators: what stands in the way is named, and never leaves anything half done."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import fpm_cli.ops.build as builder
from fpm_cli.errors import FpmError, MissingError

PRETENDER = """#!/bin/sh
# Stands in for GCC: answers the question for its version, then makes its -o file, slowly.
case "$*" in *-dM*) echo "#define __GNUC__ {version}"; exit 0;; esac
while [ "$1" != -o ]; do shift; done
touch "$2"
echo start >> {folder}/started
sleep {seconds}
"""
BUILD = """
import sys
from pathlib import Path
from fpm_cli.ops.build import build
build(Path(sys.argv[1]), compiler=sys.argv[2], jobs=1, say=lambda line: print(line, flush=True))
"""


@pytest.fixture
def pretender(tmp_path):
    def make(version=12, seconds=0):
        path = tmp_path / f"g++-{version}-{seconds}"
        path.write_text(PRETENDER.format(version=version, seconds=seconds, folder=tmp_path))
        path.chmod(0o755)
        return str(path)

    return make


def start(folder, compiler):
    command = [sys.executable, "-c", BUILD, str(folder), compiler]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_second_build_finds_the_first_ones(tmp_path, pretender):
    lines = []
    path = builder.build(tmp_path / "cache", compiler=pretender(), say=lines.append)
    assert path.is_file()
    assert builder.build(tmp_path / "cache", compiler="no compiler is asked for", say=lines.append) == path
    assert lines[-1] == f"already built: {path}"
    assert [each.name for each in path.parent.iterdir()] == [builder.LIBRARY]


def test_a_killed_build_does_not_stop_the_next_and_its_leftovers_go(tmp_path, pretender):
    cache = tmp_path / "cache"
    process = start(cache, pretender(seconds=60))
    wait_until((tmp_path / "started").is_file)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(cache.glob(".torch-*.tmp"))
    assert not builder.library_path(cache).is_file()
    path = builder.build(cache, compiler=pretender(), say=lambda line: None)
    assert path.is_file()
    assert not list(cache.glob(".torch-*.tmp"))


def test_of_two_builds_one_waits_and_says_for_whom(tmp_path, pretender):
    cache, slow = tmp_path / "cache", pretender(seconds=0.2)
    first = start(cache, slow)
    wait_until((tmp_path / "started").is_file)
    second = start(cache, slow)
    says_first, _ = first.communicate(timeout=60)
    says_second, _ = second.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    assert "built " in says_first
    assert f"waiting: process {first.pid} on " in says_second
    assert "built meanwhile" in says_second
    compiled = len((tmp_path / "started").read_text().split())
    assert compiled == len(builder.compile_units()) + 1  # and one linking


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"no C\+\+ compiler .*install GCC.*reference implementations run"):
        builder.build(tmp_path / "cache")


def test_an_old_compiler(tmp_path, pretender):
    with pytest.raises(FpmError, match="is GCC 7, and the operators need GCC 9 or newer"):
        builder.build(tmp_path / "cache", compiler=pretender(version=7))


def test_a_folder_that_cannot_be_made(tmp_path, pretender):
    (tmp_path / "file").touch()
    with pytest.raises(FpmError, match=r"cannot build there: .*set XDG_CACHE_HOME"):
        builder.build(tmp_path / "file" / "cache", compiler=pretender())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path, pretender):
    tmp_path.chmod(0o500)
    with pytest.raises(FpmError, match="cannot build there: Permission denied"):
        builder.build(tmp_path / "cache", compiler=pretender())


def test_an_error_of_the_compiler_is_shown_and_leaves_nothing(tmp_path, pretender):
    path = tmp_path / "failing"
    path.write_text(
        "#!/bin/sh\n"
        """case "$*" in *-dM*) echo '#define __GNUC__ 12';; *) echo 'x.cpp: error: no' >&2; exit 1;; esac\n"""
    )
    path.chmod(0o755)
    with pytest.raises(FpmError, match=r"(?s)fails with status 1:\nx.cpp: error: no"):
        builder.build(tmp_path / "cache", compiler=str(path), say=lambda line: None)
    assert sorted(each.name for each in (tmp_path / "cache").iterdir()) == ["build.lock"]


def test_the_folder_is_the_users_cache_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert builder.default_folder() == tmp_path / "fpm" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert builder.default_folder() == tmp_path / ".cache" / "fpm" / "kernels"


def test_another_torch_or_other_sources_need_another_build(tmp_path, monkeypatch):
    before = builder.build_name()
    monkeypatch.setattr(builder, "torch_version", lambda: "2.99.0")
    assert builder.build_name() != before
    assert builder.build_name().startswith("torch-2.99.0-")
    monkeypatch.undo()
    assert builder.build_name() == before
    monkeypatch.setattr(builder, "COMMON_FLAGS", ("-O0",))
    assert builder.build_name() != before


def run_fpm(*arguments, **environment):
    command = [sys.executable, "-m", "fpm_cli", "kernels", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_list_without_a_build_says_that_the_reference_runs_and_why(tmp_path):
    (tmp_path / "fpm" / "kernels" / "torch-1.0-x86_64-0").mkdir(parents=True)
    result = run_fpm("list", "--json", XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 0
    rows = [row for row in json.loads(result.stdout)["operators"] if row["device"] == "cpu"]
    assert {row["operator"] for row in rows} >= {"attention", "residual_norm", "bias_gelu"}
    for row in rows:
        assert row["implementation"] == "reference"
        assert row["reason"].startswith("not built for this version (`fpm kernels build`)")
        assert "torch-1.0-x86_64-0" in row["reason"]


def test_list_names_a_library_that_does_not_load(tmp_path, pretender):
    builder.build(tmp_path, compiler=pretender(), say=lambda line: None)  # an empty file
    result = run_fpm("list", "--json", "--folder", str(tmp_path))
    assert result.returncode == 0
    rows = [row for row in json.loads(result.stdout)["operators"] if row["device"] == "cpu"]
    assert rows and all("does not load" in row["reason"] for row in rows)


def test_build_without_a_compiler_fails_with_a_line(tmp_path):
    result = run_fpm("build", "--folder", str(tmp_path / "cache"), "--compiler", str(tmp_path / "no-such"))
    assert result.returncode == 3
    assert "no C++ compiler" in result.stderr
    assert "Traceback" not in result.stderr
