"""The plan of a build: what decides its bytes, kept in its work folder so that no two builds are mixed."""

import json
from pathlib import Path
from typing import Any

from fpm_cli import __version__
from fpm_cli.corpus.corpus import TOKENIZER
from fpm_cli.corpus.inputs import Input, resume_key
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.work_folder import WORK_FORMAT, WorkFolder, write_json
from fpm_cli.errors import UsageError
from fpm_cli.tokenization.base import Tokenizer

PLAN = "plan.json"
_NUM_NAMES = 3  # of the inputs that differ


def check_plan(
    files: list[Input], tokenizer: Tokenizer, options: BuildOptions, shard_bytes: int, work: WorkFolder
) -> None:
    """Write the plan, or raise UsageError naming what differs from that of the unfinished build."""
    plan: dict[str, Any] = {
        "fpm": __version__,
        "work_format": WORK_FORMAT,
        "inputs": [resume_key(file) for file in files],
        "options": options.model_dump(mode="json"),
        "tokenizer": tokenizer.fingerprint,
        "shard_bytes": shard_bytes,
    }
    path = work.path / PLAN
    if not path.exists():
        write_json(path, plan)
    elif differences := _differences(_read(path), plan):
        raise UsageError(
            f"{work.path} is an unfinished build with other {differences}; "
            "give the same to resume it, or remove it to start again"
        )
    if not (work.path / TOKENIZER).exists():
        tokenizer.save(work.path / TOKENIZER)


def _read(path: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(path.read_bytes())
    return plan


def _differences(recorded: dict[str, Any], plan: dict[str, Any]) -> str:
    """What differs between two plans, with the values of options and the names of inputs."""
    parts = []
    for key in plan:
        if recorded.get(key) == plan[key]:
            continue
        if key == "inputs":
            parts.append(f"inputs ({_input_differences(recorded.get(key, []), plan[key])})")
        elif key == "options":
            then, now = recorded.get(key, {}), plan[key]
            changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
            values = ", ".join(f"{name}: {then.get(name)!r}, now {now.get(name)!r}" for name in changed)
            parts.append(f"options ({values})")
        else:
            parts.append(f"{key} ({str(recorded.get(key))[:16]}, now {str(plan[key])[:16]})")
    return ", ".join(parts)


def _input_differences(recorded: list[list[Any]], inputs: list[list[Any]]) -> str:
    """The first of the inputs that are new, gone or changed; each is a `resume_key`."""
    then, now = ({(key[0], key[1]): key for key in keys} for keys in (recorded, inputs))
    changed = {
        "added": sorted(name for name, path in now.keys() - then.keys()),
        "removed": sorted(name for name, path in then.keys() - now.keys()),
        "size changed": sorted(key[0] for key in then.keys() & now.keys() if then[key][2] != now[key][2]),
        "modified": sorted(
            key[0]
            for key in then.keys() & now.keys()
            if then[key][2] == now[key][2] and then[key] != now[key]
        ),
    }
    parts = []
    for what, names in changed.items():
        if names:
            more = f" and {len(names) - _NUM_NAMES} more" if len(names) > _NUM_NAMES else ""
            parts.append(f"{what}: {', '.join(names[:_NUM_NAMES])}{more}")
    return "; ".join(parts) or "in another order"
