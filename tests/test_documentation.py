"""Every command in README and docs runs, on inputs of a few lines and with reduced settings."""

import re
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fpm_cli.cli.app import app
from fpm_cli.config.resolve import flatten, resolve
from tests.documented_commands import ROOT, CommandRunner, inline_commands, shell_commands
from tests.documented_inputs import NEWEST, makers
from tests.preloaded import Preloaded

GENERATED = ROOT / "docs/verbs.md"  # by the site; its examples are those of `--help`
DOCUMENTS = [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {GENERATED})]
TEXTS = [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]
KEY = re.compile(r"^\| `([a-z_.0-9]+)` \|", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
WITH_COMMANDS = [path for path in DOCUMENTS if shell_commands(path.read_text(encoding="utf-8"))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def runner(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sample_corpora: Callable[[str], Path],
    preloaded: Preloaded,
) -> CommandRunner:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return CommandRunner(makers(sample_corpora, preloaded), NEWEST)


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


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command with its path."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, word))
        else:
            yield (*path, word), command


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


def reference(name: str) -> str:
    """The page that a script in docs/ generates."""
    specification = spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert specification and specification.loader
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    page: str = module.reference()
    return page


def test_the_page_on_every_verb_has_every_command_with_its_options_and_examples() -> None:
    page, command = reference("verbs"), get_command(app)
    sections = dict(zip(*[iter(re.split(r"^### (fpm .+)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    known = {" ".join(("fpm", *path)): each for path, each in commands(command)}
    assert sections.keys() == known.keys() and len(sections) > 20
    for title, text in sections.items():
        options = [option for parameter in known[title].params for option in parameter.opts]
        missing = [name for name in options if name.startswith("--") and f"`{name}`" not in text]
        assert missing in ([], ["--help"]), title
        assert text.count(title) >= 2, f"{title} has no examples"


def test_the_configuration_reference_is_that_of_the_schema() -> None:
    page = reference("configuration")
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == page, "run docs/configuration.py"
    keys = {key for key, value in flatten(resolve("BERT-C", environment={}).config) if value is not None}
    assert keys - {"engine.deepspeed"} <= {*KEY.findall(page)}


def test_the_table_of_the_twenty_is_their_plan() -> None:
    page = (ROOT / "docs/true_size.md").read_text(encoding="utf-8")
    assert page == reference("true_size"), "run docs/true_size.py"
    assert page.count("| yes |") == 20


@pytest.mark.parametrize("document", TEXTS, ids=name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert not [target for target in local if target and not (document.parent / target).exists()]
