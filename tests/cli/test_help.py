"""Help texts: verbs in groups, two examples per command that run, answers without importing torch."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from fpm_cli.cli.app import app
from fpm_cli.cli.verb_groups import VERBS
from tests.documented_commands import CommandRunner, help_examples
from tests.documented_inputs import NEWEST, makers
from tests.preloaded import Preloaded


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each command's path with the epilog that holds its examples."""
    for name, command in getattr(group, "commands").items():  # noqa: B009
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command.epilog or ""


ALL = list(commands(get_command(app)))


@pytest.fixture(scope="module")
def runner(
    tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> Iterator[CommandRunner]:
    """One folder for all examples, so that its small runs are trained once."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("examples")
    os.chdir(folder)
    yield CommandRunner(makers(sample_corpora, preloaded), NEWEST)
    os.chdir(before)


def shown(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What `fpm` prints in a process of its own, in which importing torch is an error."""
    code = "import sys; sys.modules['torch'] = None; from fpm_cli.cli.app import main; main()"
    environment = {**os.environ, "TERM": "dumb", **variables}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )


# Their examples take a trained study or a compiler, which `tests/study` and `tests/kernels` have anyway.
SLOW = {("study", "resume"), ("study", "show"), ("kernels", "build"), ("kernels", "bench")}
EXAMPLES = [
    pytest.param(path, epilog, id="-".join(path), marks=[pytest.mark.long] if path in SLOW else [])
    for path, epilog in ALL
]


@pytest.mark.parametrize(("path", "epilog"), EXAMPLES)
def test_the_examples_of_a_command_run(
    path: tuple[str, ...], epilog: str, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = help_examples(epilog)
    assert len(examples) >= 2
    for example in examples:
        assert f"fpm {' '.join(path)}" in example
        runner.check(example, monkeypatch)


def test_every_verb_is_in_one_group_and_has_a_line() -> None:
    registered = set(getattr(get_command(app), "commands"))  # noqa: B009
    listed = [name for verbs in VERBS.values() for name in verbs]
    assert len(listed) == len(set(listed)) and registered <= set(listed)
    lines = shown("--help").stdout.splitlines()
    verbs = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in registered]
    assert verbs == [name for name in listed if name in registered]


@pytest.mark.parametrize(("arguments", "imported"), [(["--help"], []), (["presets", "list"], ["presets"])])
def test_only_the_verb_that_is_used_is_imported(arguments: list[str], imported: list[str]) -> None:
    code = (
        "import sys; from fpm_cli.cli.app import run; run(sys.argv[1:]);"
        "print(*(name for name in sys.modules if name.startswith('fpm_cli.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    verbs = {verb.target.split(":")[0] for group in VERBS.values() for verb in group.values()}
    modules = {name.removeprefix("fpm_cli.cli.") for name in done.stderr.split()}
    assert sorted(verbs & modules) == imported


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids="-".join)
def test_help_answers_without_torch(path: tuple[str, ...]) -> None:
    done = shown(*path, "--help")
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fpm pre", ["presets", "pretrain"]),
        ("fpm pretrain --preset EPM-X", ["EPM-X-L", "EPM-X-M", "EPM-X-S", "EPM-X-X"]),
        ("fpm plan --device A100", ["A100-40", "A100-80"]),
        ("fpm generate runs/my", ["runs/my-run"]),
        ("fpm evaluate lm ", ["runs/my-run"]),
        ("fpm finetune tn", ["tnews"]),
        ("fpm tokenize train --kind t5", ["t5-en", "t5-zh"]),
    ],
)
def test_completion_needs_no_torch(
    words: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my-run", "not-a-run"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs/my-run/config.toml").touch()
    monkeypatch.chdir(tmp_path)
    done = shown(COMP_WORDS=words, COMP_CWORD=str(words.count(" ")), _FPM_COMPLETE="complete_bash")
    assert sorted(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--proxxy"], "--proxxy; did you mean '--proxy'? (see `fpm pretrain --help`)"),
        (["pretrian"], "error: no such command 'pretrian'; did you mean 'pretrain'? (see `fpm --help`)"),
        (["tokenize", "train"], "error: missing option '--kind' (see `fpm tokenize train --help`)"),
        (["plan", "--budget", "1", "--device", "A100"], "'A100'; did you mean 'A100-40' or 'A100-80'?"),
        (["pretrain", "--preset", "CPM-X-S", "--set", "lr=1"], "no such key; did you mean 'train.lr'?"),
    ],
)
def test_usage_errors_have_one_form_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = shown(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
