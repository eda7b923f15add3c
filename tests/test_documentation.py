"""Every command in README and docs runs, on inputs of a few lines and with reduced settings."""

import re
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fpm_cli.cli.app import app
from fpm_cli.config.resolve import flatten, resolve
from tests.documented_commands import ROOT, CommandRunner, inline_commands, shell_commands
from tests.documented_inputs import NEWEST, makers

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]
KEY = re.compile(r"^\| `([a-z_.0-9]+)` \|", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
WITH_COMMANDS = [path for path in DOCUMENTS if shell_commands(path.read_text(encoding="utf-8"))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_corpora: Callable[[str], Path]
) -> CommandRunner:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return CommandRunner(makers(sample_corpora), NEWEST)


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=name)
def test_the_commands_of_a_document_run_in_their_order(
    document: Path, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in shell_commands(document.read_text(encoding="utf-8")):
        runner.check(command, monkeypatch)


@pytest.mark.parametrize(
    "planted",
    ["fpm presets shwo BERT-C", "fpm pretrain --preset CPM-X-S --proxxy", "make dmeo", "rm books.txt"],
)
def test_a_planted_command_that_does_not_run_is_found(
    planted: str, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = shell_commands(f"Text.\n\n```sh\n{planted}\n```\n")
    with pytest.raises(AssertionError):
        runner.check(command, monkeypatch)


def unknown_words(words: list[str]) -> list[str]:
    """What of a quoted command fpm does not have: its verb, or one of its flags."""
    command: Any = get_command(app)
    context = command.make_context("fpm", [], resilient_parsing=True)
    rest = words[1:]
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        child = command.get_command(context, rest[0])
        if child is None:
            return [rest[0]]
        command, rest = child, rest[1:]
    flags = {
        "--help",
        *(flag for option in command.params for flag in (*option.opts, *option.secondary_opts)),
    }
    return [word for word in rest if word.startswith("--") and word.partition("=")[0] not in flags]


@pytest.mark.parametrize("document", TEXTS, ids=name)
def test_commands_quoted_in_sentences_name_verbs_and_flags_that_exist(document: Path) -> None:
    quoted = inline_commands(document.read_text(encoding="utf-8"))
    assert not [" ".join(words) for words in quoted if unknown_words(words)]


def test_a_planted_unknown_flag_in_a_sentence_is_found() -> None:
    (words,) = inline_commands("Use `fpm pretrain --presett BERT-C` here.")
    assert unknown_words(words) == ["--presett"]


def test_the_configuration_reference_is_that_of_the_schema() -> None:
    specification = spec_from_file_location("configuration", ROOT / "docs/configuration.py")
    assert specification and specification.loader
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    page: str = module.reference()
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == page, "run docs/configuration.py"
    keys = {key for key, value in flatten(resolve("BERT-C", environment={}).config) if value is not None}
    assert keys - {"engine.deepspeed"} <= {*KEY.findall(page)}


@pytest.mark.parametrize("document", TEXTS, ids=name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert not [target for target in local if target and not (document.parent / target).exists()]
