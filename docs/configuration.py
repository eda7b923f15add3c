"""Write docs/configuration.md from the schema: `python docs/configuration.py`."""

import json
from pathlib import Path
from typing import Any

from fpm_cli.config.schema import RunConfig
from fpm_cli.config.sections import MAX_COUNT

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration reference

Generated from the schema by `docs/configuration.py`; a test fails when this page is out of date. Values
without a default are set by the preset. `fpm presets show NAME --origin` shows where each value comes from.

Built-in defaults < preset < `--proxy` < `--config FILE` < `FPM_<SECTION>__<KEY>` in the environment <
`--set key=value`.
"""
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def reference() -> str:
    """The page: a table of the top-level keys, and one for each section."""
    schema = RunConfig.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    sections: list[tuple[str, dict[str, Any]]] = [("", schema)]
    for name, value in schema["properties"].items():
        if reference_to := section_of(value):
            sections.append((name, definitions[reference_to]))
    return HEAD + "".join(section(name, part, definitions) for name, part in sections)


def section(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """One heading with its table."""
    description = " ".join(schema.get("description", "").split())
    prefix = f"{name}." if name else ""
    rows = [
        " | ".join(
            [
                f"| `{prefix}{key}`",
                kind(value, definitions),
                default(value),
                f"{value.get('description', '')} |",
            ]
        )
        for key, value in schema["properties"].items()
        if not section_of(value)
    ]
    table = "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])
    return f"\n## {f'`[{name}]`' if name else 'Top level'}\n\n{description}\n\n{table}\n"


def section_of(value: dict[str, Any]) -> str | None:
    """The name of the section that a property holds, if it is one."""
    choices = [value, *value.get("anyOf", ()), *value.get("allOf", ())]
    return next((choice["$ref"].rsplit("/", 1)[1] for choice in choices if "$ref" in choice), None)


def kind(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The values that a key takes: choices, or a type with its range."""
    if "anyOf" in value:
        kinds = [kind(choice, definitions) for choice in value["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    limits = [
        f"{sign} {value[limit]:g}"
        for limit, sign in LIMITS.items()
        if value.get(limit, MAX_COUNT) != MAX_COUNT
    ]
    return " ".join([str(value.get("type", "any")), *limits])


def default(value: dict[str, Any]) -> str:
    """The built-in default as JSON writes it; empty where the preset sets the value."""
    return f"`{json.dumps(value['default'])}`" if "default" in value else ""


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
