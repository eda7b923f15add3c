"""In a locale of another encoding than UTF-8, files are UTF-8 and what was typed is read as it was typed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("nproc", ["1", "2"])
def test_a_run_is_trained_and_generates_from_a_prompt_typed_in_the_locale(
    nproc: str, chinese: dict[str, str], tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run = tmp_path / "文本".encode(ENCODING).decode("utf-8", "surrogateescape")  # as such a user names it
    begin = tiny("CPM-X-S", "train.steps=2", "model.num_layers=2")
    corpus = ["--corpus", str(sample_corpora("CPM-X-S")), "--nproc", nproc]
    trained = fpm(chinese, *begin, *corpus, "--out", os.fsencode(run))
    assert trained.returncode == 0, trained.stderr.decode(ENCODING, "replace")
    assert os.fsencode(run) in [os.fsencode(path) for path in tmp_path.iterdir()]
    prompt = "话说天下".encode(ENCODING)
    generated = fpm(chinese, "generate", os.fsencode(run), "--prompt", prompt, "--max-tokens", "2", "--json")
    assert generated.returncode == 0, generated.stderr.decode(ENCODING, "replace")
    assert json.loads(generated.stdout.decode("utf-8"))["prompts"] == ["话说天下"]


def test_text_is_decoded_and_paths_keep_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = "话说".encode(ENCODING).decode("utf-8", "surrogateescape")
    given = ["generate", typed, "--prompt", typed, f"--prompt={typed}", "--out", typed]
    monkeypatch.setattr("fpm_cli.text_encoding.locale.getencoding", lambda: ENCODING)
    assert decode_arguments(given) == ["generate", typed, "--prompt", "话说", "--prompt=话说", "--out", typed]
    monkeypatch.setattr("fpm_cli.text_encoding.locale.getencoding", lambda: "UTF-8")
    assert decode_arguments(given) == given
