"""The commands in Markdown files and help texts: found, reduced in size, and run in this process."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm

ROOT = Path(__file__).parents[1]
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(fpm [^`\n]+)`")
OUTPUT_FLAGS = ("--out", "--submission", "--html")

# Settings under which a documented training takes a second; the depth is reduced as well, for the test only.
SMALL_PRETRAINING = {
    "model.num_layers": 2,
    "train.steps": 2,
    "train.warmup_steps": 1,
    "train.sequence_length": 26,
    "train.global_batch": 4,
    "train.micro_batch": 4,
    "train.eval_samples": 4,
}
NARROW = {"model.hidden_size": 32, "model.num_heads": 2, "model.head_size": 16, "model.ffn_size": 64}
SMALL_FINE_TUNING = {"finetune.epochs": 1, "train.global_batch": 8, "train.micro_batch": 8}

Maker = Callable[[Path], None]


def shell_commands(markdown: str) -> list[str]:
    """The commands of a Markdown text's `sh` blocks, one per line, continued lines joined."""
    blocks = "".join(SHELL_BLOCK.findall(markdown)).replace("\\\n", " ")
    return [line for line in blocks.split("\n") if line.strip()]


def inline_commands(markdown: str) -> list[list[str]]:
    """The words of each `fpm ...` that a Markdown text quotes outside its shell blocks."""
    return [shlex.split(command) for command in INLINE.findall(SHELL_BLOCK.sub("", markdown))]


def help_examples(epilog: str) -> list[str]:
    """The example commands at the end of a help text."""
    lines = [line.strip() for line in epilog.split("\n")]
    return [line for line in lines if "fpm " in line]


def reduced(arguments: Sequence[str]) -> list[str]:
    """The same command with settings under which it takes a moment; only sizes and durations change."""
    words = list(arguments)
    _replace(words, "--nproc", "1")
    _replace(words, "--budget", "2s", only_if=lambda value: value[-1:] in "smh")
    match words:
        case ["pretrain", *_] if "--dry-run" in words or "--resume" in words:
            pass
        case ["pretrain", *_] if "--proxy" in words or "--config" in words:
            settings: dict[str, object] = dict(SMALL_PRETRAINING)
            settings |= NARROW if "--config" in words else {}
            settings |= {"train.decoder_length": 16} if "-2-" in _value(words, "--preset") else {}
            settings |= _vocabulary(_value(words, "--corpus"))
            words += assignments(settings)
        case ["pretrain", *_]:  # a preset at its full size
            words.append("--dry-run")
        case ["finetune", *_] if "--resume" not in words:
            words += [*assignments(SMALL_FINE_TUNING), "--validation", "0.25"]
        case ["tokenize", "train", *_]:
            _replace(words, "--vocab-size", "2000", only_if=lambda value: int(value) > 2048)
            words += [] if "--allow-smaller" in words else ["--allow-smaller"]
        case ["build-corpus", *_]:
            _replace(words, "--validation-fraction", "0.25")
            words += [] if "--validation-fraction" in words else ["--validation-fraction", "0.25"]
            words += ["--workers", "1"]
        case ["study", "depth", *_]:
            _replace(words, "--depths", "2,3")
            words += [] if "--dry-run" in words else ["--dry-run"]  # `study show` takes one made here
        case ["evaluate", "lm", *_] if "--max-samples" not in words:
            words += ["--max-samples", "8"]
    return words


def assignments(settings: Mapping[str, object]) -> list[str]:
    """`--set key=value` for each setting."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def _value(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1] if flag in words else ""


def _replace(
    words: list[str], flag: str, value: str, only_if: Callable[[str], bool] = lambda value: True
) -> None:
    if flag in words and only_if(words[words.index(flag) + 1]):
        words[words.index(flag) + 1] = value


def _vocabulary(corpus: str) -> dict[str, object]:
    """A corpus of little text has a smaller vocabulary than the documented one."""
    if not corpus:
        return {}
    manifest = json.loads((Path(corpus) / "manifest.json").read_text(encoding="utf-8"))
    return {"model.vocab_size": manifest["tokenizer"]["vocab_size"]}


class CommandRunner:
    """Runs documented commands in the current folder, on inputs that it makes when they are missing."""

    def __init__(self, makers: Mapping[str, Maker], needed: Mapping[tuple[str, ...], str]) -> None:
        self.makers = makers
        self.needed = needed  # verb -> the run that it takes when none is named

    def check(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run a command.

        Raises:
            AssertionError: it does not end with exit code 0.
        """
        if command.startswith("make "):
            shown = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
            assert shown.returncode == 0, shown.stderr
        elif command.startswith(("python3 -m venv", ".venv/bin/pip", ". .venv", "pip install")):
            self._check_installation(shlex.split(command))
        elif " > " in command:
            self._check_in_a_shell(command)
        else:
            text, _, last = command.rpartition(" | ")
            words = shlex.split(last)
            assert words[0] == "fpm", f"{command!r} is no command of fpm"
            self.check_fpm(words[1:], " ".join(shlex.split(text)[1:]), monkeypatch)

    def check_fpm(self, words: Sequence[str], stdin: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run `fpm` with reduced settings, on inputs of a few lines."""
        for key, run in self.needed.items():
            if tuple(words[: len(key)]) == key and "".join(words[len(key) : len(key) + 1])[:1] in ("", "-"):
                self._make(run)
                (Path(run) / "manifest.json").touch()  # the newest
        for place, word in enumerate(words):
            if words[place - 1] not in OUTPUT_FLAGS:
                self._make(word)
            elif "--resume" not in words and Path(word).is_dir():
                shutil.rmtree(word)  # made for another command
        monkeypatch.setattr("fpm_cli.cli.study_pace.START", "")  # estimates need no measured pace here
        monkeypatch.setattr("fpm_cli.cli.study_pace.SECONDS_PER_CONFIG", 0.1)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        status = fpm(reduced(words))
        assert status == 0, f"`fpm {shlex.join(words)}` ended with {status}"

    def _make(self, name: str) -> None:
        if name in self.makers and not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            self.makers[name](Path(name))

    def _check_installation(self, words: Sequence[str]) -> None:
        if "--constraint" in words:
            assert (ROOT / words[words.index("--constraint") + 1]).is_file()
        if "--editable" in words:
            assert (ROOT / words[words.index("--editable") + 1] / "pyproject.toml").is_file()

    def _check_in_a_shell(self, command: str) -> None:
        for word in shlex.split(command):
            self._make(word)
        words = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
        done = subprocess.run(words, shell=True, capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
