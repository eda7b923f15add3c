"""The run's manifest: what is written is what is read, and documents of fpm 0.1 keep their meaning."""

import json
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.errors import DamagedError
from fpm_cli.runs.manifest import (
    MANIFEST,
    ImportRecord,
    Launch,
    RunManifest,
    RunState,
    TaskRecord,
    WeightsOrigin,
    read_manifest,
    write_manifest,
)

CONFIG = resolve("BERT-C", proxy=True, environment={}).config
LAUNCH = Launch(
    command=("fpm",), started="", devices=2, device_name="cpu", first_step=3, last_step=5, seconds=2.5
)
ORIGIN = WeightsOrigin(
    run="/runs/a", name="BERT-C", step=7, weights_fingerprint="w", tokenizer_fingerprint="t"
)
TASK = TaskRecord(
    name="qqp",
    labels=("no", "yes"),
    origin=ORIGIN,
    train_files=("/data/train.tsv",),
    train_fingerprints={"train.tsv": "f"},
    validation="0.05",
    num_examples={"train": 9, "validation": 1},
    example_fingerprints={"train.safetensors": "e"},
)
# As fpm 0.1.0 wrote it: the task's keys lie beside the run's, and nothing says `ready`.
OLD_TASK = {
    "task": "qqp",
    "labels": ["no", "yes"],
    "from": ORIGIN.model_dump(),
    "from_scratch": False,
    "train_files": ["/data/train.tsv"],
    "train_fingerprints": {"train.tsv": "f"},
    "validation": "0.05",
    "dev_file": None,
    "num_examples": {"train": 9, "validation": 1},
    "examples": {"train.safetensors": "e"},
}


def old_document(**changes: Any) -> dict[str, Any]:
    config = CONFIG.model_dump(mode="json", exclude_none=True)
    document = {"schema": "fpm.run/1", "config": config, "corpus": "corpus", "seed": 1234}
    return document | {"git_revision": None, "versions": {}, "state": "created", "launches": []} | changes


def read(folder: Path, document: object) -> RunManifest:
    (folder / MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    return read_manifest(folder / MANIFEST)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"launches": (LAUNCH,), "state": RunState.running, "ready": True, "price_per_device_hour": 1.5},
        {"imported": ImportRecord(source="a", architecture="Bert", untrained=("pooler",)), "corpus": None},
        {"task": TASK, "corpus": None, "ready": True, "tokenizer_fingerprint": "t"},
        {"corpus": b"/corpora/\xce\xc4".decode("utf-8", "surrogateescape")},
        {"config_changes": ("train.lr was 1 and is now 2",), "cpu_peak_flops": 1e11},
    ],
)
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    manifest = RunManifest(config=CONFIG, corpus="corpus", ready=False).replaced(**changes)
    write_manifest(tmp_path / MANIFEST, manifest)
    assert read_manifest(tmp_path / MANIFEST) == manifest


def test_the_keys_of_a_task_are_where_version_0_1_had_them(tmp_path: Path) -> None:
    assert read(tmp_path, old_document(**OLD_TASK)).task == TASK
    written = json.loads(json.dumps(RunManifest(config=CONFIG, ready=True, task=TASK).document()))
    assert {key: written[key] for key in OLD_TASK} == OLD_TASK


def test_a_run_of_version_0_1_is_ready_once_its_tokenizer_was_checked(tmp_path: Path) -> None:
    assert not read(tmp_path, old_document()).ready
    assert read(tmp_path, old_document(tokenizer_fingerprint="t")).ready


def test_keys_of_a_later_version_survive_a_change(tmp_path: Path) -> None:
    manifest = read(tmp_path, old_document(colour="blue")).replaced(state=RunState.stopped)
    write_manifest(tmp_path / MANIFEST, manifest)
    document = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    assert (document["colour"], document["state"]) == ("blue", "stopped")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "manifest.json"),
        (old_document(state="lost"), "state"),
        (old_document(launches=[{"devices": 0}]), "launches.0"),
        (old_document(config={"name": "x"}), "config"),
        (old_document(schema="fpm.run/2"), "schema"),
    ],
)
def test_what_is_no_manifest_is_refused_by_field(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        read(tmp_path, document)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=MANIFEST):
        read_manifest(tmp_path / MANIFEST)
