"""A run folder as the engine leaves it, without training."""

import json

import tomli_w

from fpm_cli.accounting.flops import step_flops
from fpm_cli.config.resolve import resolve


def write_run(folder, launches, steps, tail=""):
    config = resolve("CPM-X-S", proxy=True, environment={}).config
    folder.mkdir()
    (folder / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    (folder / "manifest.json").write_text(json.dumps({"launches": launches}))
    tokens = step_flops(config).tokens
    rows = [
        {"kind": "train", "step": step, "loss": 9.0 - step / 100, "seconds": 0.5, "tokens": tokens}
        for step in steps
    ]
    rows.append({"kind": "validation", "step": max(steps), "loss": 5.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return config


def launch(before, after, seconds, devices=1, device_name="AMD EPYC"):
    return {
        "started": "2026-11-22T21:00:00+00:00",
        "seconds": seconds,
        "devices": devices,
        "device_name": device_name,
        "first_step": before,
        "last_step": after,
    }
