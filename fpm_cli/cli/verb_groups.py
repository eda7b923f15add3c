"""The verbs in the order in which they are used, in groups, each with one line for `fpm --help`."""

from typing import Any

from typer.core import TyperGroup

VERBS = {
    "Before training": {
        "doctor": "Versions and devices; what works on this machine.",
        "init": "Ask for text and budget; write a configuration.",
        "presets": "The twenty models: sizes, settings and their origin.",
        "plan": "What given devices train in a given time.",
    },
    "Data": {
        "tokenize": "Train, load and apply the six tokenizers.",
        "build-corpus": "Make an indexed corpus of text.",
        "corpus": "Inspect a corpus and verify its files.",
    },
    "Training": {
        "pretrain": "Train a preset or its laptop-sized proxy.",
        "finetune": "Train a pretrained run for a classification task.",
        "study": "Train and evaluate a family at several depths.",
    },
    "Results": {
        "evaluate": "Score a run on a task or as a language model.",
        "generate": "Continue prompts, or reply in a dialogue.",
        "runs": "List, show, compare and verify runs.",
        "report": "Write a run or a study as one HTML page.",
        "cost-report": "The cost of runs, and the paper's table recomputed.",
    },
    "Other formats": {
        "export": "Write a run in transformers' format, verified by logits.",
        "import": "Read weights in transformers' format, verified by logits.",
    },
    "Operators": {
        "kernels": "Build, list and time the compiled operators.",
    },
}


class VerbGroup(TyperGroup):
    """The application's commands, listed as `VERBS` has them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the registered verbs in the order of `VERBS`, then any others."""
        listed = [name for verbs in VERBS.values() for name in verbs if name in self.commands]
        return [*listed, *(name for name in self.commands if name not in listed)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        for group, verbs in VERBS.items():
            rows = [(name, summary) for name, summary in verbs.items() if name in self.commands]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)
