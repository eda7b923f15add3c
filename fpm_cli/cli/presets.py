"""`fpm presets`: the twenty presets, their exact and printed sizes, and where each value comes from."""

from typing import Annotated, Any

import typer
from rich.table import Table

from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.cli.completion import complete_preset
from fpm_cli.cli.console import JsonFlag, show, show_json
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import flatten, resolve
from fpm_cli.config.schema import RunConfig

app = typer.Typer(help="The twenty named models: list them, show one.", no_args_is_help=True)


@app.command("list", epilog="Examples:\n\n  fpm presets list\n\n  fpm presets list --json")
def list_presets(as_json: JsonFlag = False) -> None:
    """List the presets with the size the paper prints and the exact one."""
    configs = [resolve(name, environment={}).config for name in preset_names()]
    if as_json:
        show_json("presets-list", {"presets": [_row(config) for config in configs]})
        return
    table = Table("preset", "family", "language", "tokenizer", "layers", "hidden", "heads", "vocabulary")
    table.add_column("paper prints", justify="right")
    table.add_column("exact parameters", justify="right")
    for config in configs:
        row = _row(config)
        heads = f"{row['num_heads']} x {row['head_size']}"
        table.add_row(
            *(row["name"], row["family"], row["language"], row["tokenizer"]),
            *(str(row["num_layers"]), str(row["hidden_size"]), heads),
            *(f"{row['vocab_size']:,}", row["paper_params"], f"{row['exact_params']:,}"),
        )
    show(table)


@app.command(
    "show",
    epilog="Examples:\n\n  fpm presets show CPM-X-L --origin\n\n  fpm presets show BERT-E-L --proxy --json",
)
def show_preset(
    name: Annotated[
        str, typer.Argument(help="A preset's name, for example CPM-X-L.", autocompletion=complete_preset)
    ],
    proxy: Annotated[bool, typer.Option("--proxy", help="Show the laptop-sized proxy.")] = False,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over the preset.")] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say which layer set each value.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show a preset as it resolves, every value with its key."""
    resolved = resolve(name, proxy=proxy, assignments=assignments or ())
    if as_json:
        document: dict[str, Any] = {
            "config": resolved.config.model_dump(mode="json"),
            **_row(resolved.config),
        }
        if origin:
            document["origins"] = {key: resolved.origin(key) for key, _ in flatten(resolved.config)}
        show_json("presets-show", document)
        return
    table = Table("key", "value", *(("origin",) if origin else ()))
    for key, value in flatten(resolved.config):
        table.add_row(key, str(value), *((resolved.origin(key),) if origin else ()))
    exact = f"{count_parameters(resolved.config):,}"
    table.add_row("exact parameters", exact, *(("counted",) if origin else ()))
    show(table)


def _row(config: RunConfig) -> dict[str, Any]:
    model = config.model
    return {
        "name": config.name,
        "family": config.family,
        "language": config.language,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_heads": model.num_heads,
        "head_size": model.head_size,
        "vocab_size": model.vocab_size,
        "tokenizer": config.tokenizer,
        "paper_params": config.paper.params if config.paper else None,
        "exact_params": count_parameters(config),
    }
