"""Training refuses a corpus that is damaged or was exchanged, and says what differs."""

import shutil
from pathlib import Path

import pytest

from fpm_cli.cli.app import run
from fpm_cli.config.resolve import resolve
from fpm_cli.corpus.samples import build_sample_corpus


def test_damaged_and_mismatched_corpora_exit_with_6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, preset in (("good", "EPM-X-S"), ("other", "BERT-E-S")):
        build_sample_corpus(resolve(preset, proxy=True, environment={}).config, tmp_path / name)

    def refusal(corpus: Path) -> str:
        out = tmp_path / f"run-{corpus.name}"
        arguments = ["pretrain", "--preset", "EPM-X-S", "--proxy", "--nproc", "1", "--out", str(out)]
        assert run([*arguments, "--corpus", str(corpus), "--set", "train.steps=1"]) == 6
        assert not out.exists()
        return capsys.readouterr().err

    shutil.copytree(tmp_path / "good", tmp_path / "flipped")
    data = bytearray((tmp_path / "flipped" / "train.bin").read_bytes())
    data[1000] ^= 4
    (tmp_path / "flipped" / "train.bin").write_bytes(data)
    assert "damaged (checksum differs): train.bin" in refusal(tmp_path / "flipped")
    (tmp_path / "flipped" / "train.bin").write_bytes(data[:-2])
    assert "the manifest says" in refusal(tmp_path / "flipped")
    assert "tokenizer" in refusal(tmp_path / "other")
