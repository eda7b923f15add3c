"""In a locale of another encoding than UTF-8, files are UTF-8 and what was typed is read as it was typed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as run_command
from fpm_cli.text_encoding import decode_arguments
from tests.small_runs import tiny

LOCALE, ENCODING = "zh_CN.GB18030", "gb18030"
FPM = [sys.executable, "-m", "fpm_cli"]


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose locale is Chinese and not UTF-8; glibc's own tool makes it."""
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef") is None:
        pytest.skip("no localedef to make a locale with")
    make = ["localedef", "-i", "zh_CN", "-f", "GB18030", str(folder / LOCALE)]
    if subprocess.run(make, capture_output=True).returncode > 1:  # 1: with warnings
        pytest.skip("localedef has no sources for this locale")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    environment = {**kept, "LOCPATH": str(folder), "LC_ALL": LOCALE, "OMP_NUM_THREADS": "1"}
    show = [sys.executable, "-c", "import locale; print(locale.getencoding())"]
    encoding = subprocess.run(show, env=environment, capture_output=True, text=True, check=True).stdout
    if encoding.strip().lower() != ENCODING:
        pytest.skip(f"the locale is not in effect: {encoding}")
    return environment


def fpm(environment: dict[str, str], *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*FPM, *arguments], env=environment, capture_output=True, timeout=240)


@pytest.mark.parametrize("nproc", [pytest.param("1", marks=pytest.mark.long), "2"])
def test_a_run_is_trained_and_generates_from_a_prompt_typed_in_the_locale(
    nproc: str, chinese: dict[str, str], tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    typed = os.fsencode(tmp_path) + b"/" + "文本".encode(ENCODING)
    begin = tiny("CPM-X-S", "train.steps=2", "model.num_layers=2")
    corpus = ["--corpus", str(sample_corpora("CPM-X-S")), "--nproc", nproc]
    trained = fpm(chinese, *begin, *corpus, "--out", typed)
    assert trained.returncode == 0, trained.stderr.decode(ENCODING, "replace")
    assert (tmp_path / "文本/config.toml").is_file()
    prompt = "话说天下".encode(ENCODING)
    generated = fpm(chinese, "generate", typed, "--prompt", prompt, "--max-tokens", "2", "--json")
    assert generated.returncode == 0, generated.stderr.decode(ENCODING, "replace")
    assert json.loads(generated.stdout.decode("utf-8"))["prompts"] == ["话说天下"]


def test_arguments_are_decoded_unless_they_name_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "话说".encode(ENCODING).decode("utf-8", "surrogateescape")
    monkeypatch.setattr("fpm_cli.text_encoding.locale.getencoding", lambda: ENCODING)
    monkeypatch.chdir(tmp_path)
    assert decode_arguments(["--prompt", typed, "plain"]) == ["--prompt", "话说", "plain"]
    Path(typed).touch()
    assert decode_arguments([typed]) == [typed]
    monkeypatch.setattr("fpm_cli.text_encoding.locale.getencoding", lambda: "UTF-8")
    Path(typed).unlink()
    assert decode_arguments([typed]) == [typed]


def test_a_run_whose_path_is_not_utf8_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "文本".encode(ENCODING).decode("utf-8", "surrogateescape"))
    assert run_command([*tiny("CPM-X-S"), "--out", run]) == 2
    assert "must be UTF-8" in capsys.readouterr().err
    assert run_command(["generate", run, "--prompt", "a"]) == 2
    assert not list(tmp_path.iterdir())
