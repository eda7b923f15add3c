"""Run folders with given metrics, without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from fpm_cli.config.resolve import resolve

LABELS = ("100", "101", "102")


def write_run(
    path: Path,
    *assignments: str,
    preset: str = "CPM-X-S",
    losses: Mapping[int, float] | None = None,
    validation_losses: Mapping[int, float] | None = None,
    state: str = "finished",
    events: Sequence[Mapping[str, Any]] = (),
    **manifest: Any,
) -> Path:
    """Write a proxy's run folder with losses by step, and other rows and keys of the manifest."""
    config = resolve(preset, proxy=True, environment={}, assignments=assignments).config
    losses = {1: 8.0, 2: 7.0, 3: 6.0} if losses is None else losses
    path.mkdir(parents=True)
    document = config.model_dump(mode="json", exclude_none=True)
    (path / "config.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    launch = {
        "command": ["fpm", "pretrain", "--preset", preset],
        "started": "2026-11-22T21:00:00+00:00",
        "devices": 1,
        "device_name": "NVIDIA A100-SXM4-40GB",
        "first_step": 0,
        "last_step": max(losses, default=0),
        "seconds": 90.0,
    }
    about = {
        "schema": "fpm.run/1",
        "config": document,
        "corpus": "corpus",
        "seed": config.train.seed,
        "state": state,
        "ready": True,
        "versions": {"fpm": "0.1.0"},
        "launches": [launch] if losses else [],
        **manifest,
    }
    (path / "manifest.json").write_text(json.dumps(about), encoding="utf-8")
    rows: list[Mapping[str, Any]] = [
        {
            **{"kind": "train", "step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0},
            **{"seconds": 0.5, "tokens": 256, "tokens_per_second": 512.0},
        }
        for step, loss in losses.items()
    ]
    rows += [{"kind": "validation", "step": step, "loss": v} for step, v in (validation_losses or {}).items()]
    rows += events
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_task_run(path: Path, predicted: Sequence[int], labels: Sequence[int], **manifest: Any) -> Path:
    """Write a run that was fine-tuned for TNEWS and evaluated: indices of LABELS."""
    write_run(
        path,
        *("model.num_layers=2",),
        preset="BERT-C",
        validation_losses={3: 0.5},
        **task_keys("runs/bert"),
        **manifest,
    )
    rows = [
        {"id": str(n), "label": LABELS[label], "prediction": LABELS[guess], "probabilities": []}
        for n, (label, guess) in enumerate(zip(labels, predicted, strict=True))
    ]
    (path / "predictions-dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task_keys(origin: str, step: int = 9) -> dict[str, Any]:
    """What the manifest of a fine-tuned run has besides that of a pretraining."""
    return {
        "task": "tnews",
        "labels": list(LABELS),
        "from": {
            "run": origin,
            "name": "BERT-C",
            "step": step,
            "weights_fingerprint": None,
            "tokenizer_fingerprint": "t",
        },
        "train_files": ["train.tsv"],
        "validation": "0.05",
        "num_examples": {"train": 60, "validation": 3},
        "examples": {},
        "corpus": None,
    }
