"""`fpm init`: a commented configuration and the next commands, from a few answers; no other verb needs it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import typer

from fpm_cli.cli.console import JsonFlag, show, show_json
from fpm_cli.cli.durations import seconds_of
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.config.sections import Family, Language
from fpm_cli.errors import MissingError, UsageError

Choice = TypeVar("Choice", bound=str)
EXAMPLES = (
    "Examples:\n\n  fpm init --text books.txt --language en --family gpt --budget 30m\n\n"
    "  fpm init --text news.txt --language zh --family bert --budget 1h --out news.toml --json"
)
# The shallowest preset of each family and language: a first run should be quick.
PRESETS: dict[tuple[Family, Language], str] = {
    ("gpt", "en"): "EPM-X-S",
    ("gpt", "zh"): "CPM-X-S",
    ("bert", "en"): "BERT-X-EN-S",
    ("bert", "zh"): "BERT-X-CN-S",
    ("encdec", "en"): "EPM-2-X-S",
    ("encdec", "zh"): "CPM-2-X-S",
}


def init(
    text: Annotated[Path | None, typer.Option(help="Your text: a file, or a folder of files.")] = None,
    language: Annotated[Literal["en", "zh"] | None, typer.Option(help="Its language.")] = None,
    family: Annotated[
        Literal["gpt", "bert", "encdec"] | None,
        typer.Option(help="gpt continues text, bert classifies it, encdec fills gaps."),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Time to train in, such as 30m or 2h.")] = None,
    out: Annotated[Path, typer.Option(help="The configuration to write; must not exist.")] = Path("fpm.toml"),
    as_json: JsonFlag = False,
) -> None:
    """Write a commented configuration for a first run on your own text, and print the next commands.

    What the flags leave open is asked for on a terminal.
    """
    if out.exists():
        raise UsageError(f"{out} is already there; --out names another file")
    chosen_text = text or Path(_ask("text", "A text file, or a folder of them"))
    if not chosen_text.exists():
        raise MissingError(f"--text {chosen_text}: no such file or folder")
    chosen_language = language or _choose("language", "Its language", get_args(Language))
    chosen_family = family or _choose("family", "The kind of model", get_args(Family))
    chosen_budget = budget or _ask("budget", "Time to train in, such as 30m or 2h")
    seconds = seconds_of(chosen_budget, bare_unit="s")
    config = resolve(PRESETS[chosen_family, chosen_language], proxy=True, environment={}).config
    commands = next_commands(config, chosen_text, out)

    from fpm_cli.files import replace_text

    replace_text(out, configuration(config, seconds, chosen_budget))
    if as_json:
        show_json("init", {"config": str(out), "preset": config.name, "commands": commands})
    else:
        show(f"written to {out}; next:\n\n" + "\n".join(commands))


def configuration(config: RunConfig, budget_seconds: float, budget: str) -> str:
    """The TOML text: the settings that are changed most, with what they do."""
    train = config.train
    return f"""# For `fpm pretrain --preset {config.name} --proxy --config` with this file. A key that is left
# out has the preset's value, which `fpm presets show {config.name} --proxy --origin` shows.

[model]
num_layers = {config.model.num_layers}  # the depth; parameters and time grow with it

[train]
budget_seconds = {budget_seconds:g}  # {budget}: the whole schedule fits into this time
lr = {train.lr:g}  # the highest learning rate
global_batch = {train.global_batch}  # sequences per step
eval_every = {train.eval_every}  # steps between validations
seed = {train.seed}  # another seed gives an independent run
"""


def next_commands(config: RunConfig, text: Path, out: Path) -> list[str]:
    """The commands from the text to a report, in their order."""
    name = shlex.quote(out.stem)
    tokenizer, corpus, run = f"tokenizers/{name}", f"corpora/{name}", f"runs/{name}"
    files = sorted(text.rglob("*.txt")) if text.is_dir() else [text]
    quoted, size = shlex.join(map(str, files)), config.model.vocab_size
    return [
        f"fpm tokenize train {quoted} --kind {config.tokenizer} --vocab-size {size} --out {tokenizer}",
        f"fpm build-corpus text {shlex.quote(str(text))} --tokenizer {tokenizer} --validation-fraction 0.1 "
        f"--out {corpus}",
        f"fpm pretrain --preset {config.name} --proxy --config {shlex.quote(str(out))} --corpus {corpus} "
        f"--out {run}",
        f"fpm evaluate lm {run}",
        f"fpm report {run}",
    ]


def _ask(flag: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise UsageError(f"--{flag} is missing; without a terminal nothing can be asked for")
    return str(typer.prompt(question, err=True)).strip()


def _choose(flag: str, question: str, choices: tuple[Choice, ...]) -> Choice:
    answer = _ask(flag, f"{question} ({', '.join(choices)})")
    for choice in choices:
        if choice == answer.lower():
            return choice
    raise UsageError(f"{answer!r} is not one of {', '.join(choices)}")
