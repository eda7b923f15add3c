"""`fpm init`: a configuration that resolves and commands that run, from flags or from answers."""

import json
import sys
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.cli.init import PRESETS
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve
from tests.documented_commands import CommandRunner
from tests.documented_inputs import write_documents


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_documents("en")(tmp_path / "books.txt")
    return tmp_path


def flags(family: str = "gpt", language: str = "en") -> list[str]:
    return ["init", "--text", "books.txt", "--family", family, "--language", language, "--budget", "30m"]


def test_the_presets_are_the_shallowest_of_their_family_and_language() -> None:
    configs = [resolve(name, environment={}).config for name in preset_names()]
    for (family, language), name in PRESETS.items():
        depths = {
            config.name: config.model.num_layers
            for config in configs
            if (config.family, config.language) == (family, language) and config.name != "BERT-C"
        }
        assert depths[name] == min(depths.values())


@pytest.mark.parametrize(("family", "language"), PRESETS)
def test_the_configuration_resolves_and_sets_the_budget(family: str, language: str) -> None:
    assert fpm(flags(family, language)) == 0
    preset = PRESETS[family, language]  # type: ignore[index]
    config = resolve(preset, proxy=True, config_file=Path("fpm.toml"), environment={}).config
    assert config.train.budget_seconds == 1800
    proxy = resolve(preset, proxy=True, environment={}).config
    assert config.model == proxy.model and config.train.lr == proxy.train.lr


def test_the_commands_that_it_prints_run_in_their_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fpm([*flags(), "--json"]) == 0
    commands = json.loads(capsys.readouterr().out)["commands"]
    assert len(commands) == 5
    for command in commands:
        CommandRunner({}, {}).check(command.replace("--config fpm.toml", "--budget 2s"), monkeypatch)
    assert Path("runs/fpm/report.html").is_file()


def test_on_a_terminal_the_answers_replace_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["books.txt", "en", "BERT", "1h"])
    monkeypatch.setattr("typer.prompt", lambda question, err: next(answers))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert fpm(["init"]) == 0
    assert "BERT-X-EN-S" in Path("fpm.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["init"], 2),
        ([*flags(), "--budget", "soon"], 2),
        ([*flags(), "--text", "absent.txt"], 3),
    ],
)
def test_what_is_refused_leaves_nothing_behind(arguments: list[str], status: int, here: Path) -> None:
    assert fpm(arguments) == status
    assert [path.name for path in here.iterdir()] == ["books.txt"]


def test_an_existing_file_is_kept() -> None:
    Path("fpm.toml").write_text("mine")
    assert fpm(flags()) == 2
    assert Path("fpm.toml").read_text() == "mine"
