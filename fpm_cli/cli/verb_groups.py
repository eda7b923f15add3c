"""The verbs in the order in which they are used, in groups, each with one line for `fpm --help`.

A verb's module is imported when the verb is used: `fpm --help` imports none of them.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group


@dataclass(frozen=True)
class Verb:
    """One line of help, and where the verb is: `module:attribute` in `fpm_cli.cli`."""

    summary: str
    target: str

    def application(self, name: str) -> typer.Typer:
        """Import the verb and register it alone, under its name."""
        module_name, attribute = self.target.split(":")
        module = import_module(f"fpm_cli.cli.{module_name}")
        target = getattr(module, attribute)
        application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        if isinstance(target, typer.Typer):
            application.add_typer(target, name=name)
        else:
            application.command(name, epilog=module.EXAMPLES)(target)
        return application


VERBS = {
    "Before training": {
        "doctor": Verb("Versions and devices; what works on this machine.", "doctor:doctor"),
        "init": Verb("Ask for text and budget; write a configuration.", "init:init"),
        "presets": Verb("The twenty models: sizes, settings and their origin.", "presets:app"),
        "plan": Verb("What given devices train in a given time.", "plan:plan_budget"),
    },
    "Data": {
        "tokenize": Verb("Train, load and apply the six tokenizers.", "tokenize:app"),
        "build-corpus": Verb("Make an indexed corpus of text.", "build_corpus:build_corpus"),
        "corpus": Verb("Inspect a corpus and verify its files.", "corpus:app"),
    },
    "Training": {
        "pretrain": Verb("Train a preset or its laptop-sized proxy.", "pretrain:pretrain"),
        "finetune": Verb("Train a pretrained run for a classification task.", "finetune:finetune"),
        "study": Verb("Train and evaluate a family at several depths.", "study:app"),
    },
    "Results": {
        "evaluate": Verb("Score a run on a task or as a language model.", "evaluate:app"),
        "generate": Verb("Continue prompts, or reply in a dialogue.", "generate:generate"),
        "runs": Verb("List, show, compare and verify runs.", "runs:app"),
        "report": Verb("Write a run or a study as one HTML page.", "report:report"),
        "cost-report": Verb("The cost of runs, and the paper's table recomputed.", "cost_report:cost_report"),
    },
    "Other formats": {
        "export": Verb("Write a run in transformers' format, verified by logits.", "export:export"),
        "import": Verb("Read weights in transformers' format, verified by logits.", "import_:import_"),
    },
    "Operators": {
        "kernels": Verb("Build, list and time the compiled operators.", "kernels:app"),
    },
}


class VerbCommands(MutableMapping[str, Any]):
    """The parser's commands by name, in the order of `VERBS`; each is imported when it is first looked up."""

    def __init__(self) -> None:
        self._verbs = {name: verb for verbs in VERBS.values() for name, verb in verbs.items()}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = get_group(self._verbs[name].application(name)).commands[name]
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._verbs

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs)

    def __len__(self) -> int:
        return len(self._verbs)

    def __setitem__(self, name: str, command: Any) -> None:
        raise TypeError(f"{name}: verbs are listed in VERBS")

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name}: verbs are listed in VERBS")


class VerbGroup(TyperGroup):
    """The application's commands, listed in the groups of `VERBS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = VerbCommands()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the verbs in the order of `VERBS`."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        for group, verbs in VERBS.items():
            with formatter.section(group):
                formatter.write_dl([(name, verb.summary) for name, verb in verbs.items()])
