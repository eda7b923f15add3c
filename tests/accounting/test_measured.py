"""Predictions against this machine: peak memory of real runs, and the time of unseen shapes."""

import os
import random
import sys
import time
from statistics import median
from types import SimpleNamespace

import pytest
import torch

from fpm_cli.accounting.calibration import PRESET, calibrate
from fpm_cli.accounting.memory import device_memory
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve
from fpm_cli.engine import measure
from fpm_cli.engine.world import distributed_world

SHORT = ["train.steps=4", "train.eval_every=4", "train.eval_samples=8", "train.save_every=4"]
WIDE = ["model.hidden_size=256", "model.num_heads=4", "model.head_size=64", "model.ffn_size=1024"]
# The deepest and the shallowest of each family, at the proxy's width and at four times it.
RUNS = [
    ("CPM-X-L", []),
    ("CPM-X-S", []),
    ("CPM-X-M", WIDE),
    ("CPM-X-EVA", WIDE),
    ("BERT-E-E", []),
    ("BERT-E-S", []),
    ("BERT-C", WIDE),
    ("CPM-2-X-M", []),
    ("CPM-2-X-S", []),
    ("EPM-2-X-S", WIDE),
]


def peak_bytes_of_pretraining(preset, assignments, out, *options):
    """The resident peak of one `fpm pretrain` process."""
    command = [
        sys.executable,
        "-m",
        "fpm_cli",
        "-q",
        "pretrain",
        "--preset",
        preset,
        "--proxy",
        "--out",
        str(out),
        *options,
    ]
    command += [word for text in assignments for word in ("--set", text)]
    null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawnp(command[0], command, {**os.environ, "OMP_NUM_THREADS": "1"}, file_actions=null)
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


@pytest.mark.long
def test_the_peak_of_ten_real_runs_is_predicted_within_a_tenth(tmp_path, sample_corpora, capsys):
    misses = []
    for number, (preset, sizes) in enumerate(RUNS):
        config = resolve(preset, proxy=True, environment={}, assignments=[*SHORT, *sizes]).config
        memory = device_memory(config, "fp32", split_batch(config.train, 1), cpu=True)
        predicted = memory.total + memory.save_copy
        corpus = ["--corpus", str(sample_corpora(preset))]
        measured = peak_bytes_of_pretraining(preset, [*SHORT, *sizes], tmp_path / str(number), *corpus)
        misses.append(predicted / measured - 1)
        with capsys.disabled():
            said = f"predicted {predicted / 2**20:,.0f} MiB, measured {measured / 2**20:,.0f} MiB"
            print(f"\n{preset} {'256 wide' if sizes else '64 wide'}: {said}, {misses[-1]:+.1%}", end="")
    assert max(map(abs, misses)) < 0.10


def unseen_config(family, rng):
    hidden, heads = rng.choice([48, 64, 80, 112, 160, 224]), rng.choice([2, 4, 8])
    length, batch = rng.choice([24, 48, 64, 96, 128]), rng.choice([1, 2, 3, 4, 6, 8, 12])
    values = {
        "model.num_layers": rng.choice([2, 6, 10, 14, 24, 36]),
        "model.hidden_size": hidden,
        "model.num_heads": heads,
        "model.head_size": hidden // heads,
        "model.ffn_size": int(hidden * rng.choice([2.5, 4])),
        "model.vocab_size": rng.choice([700, 1500, 3000]),
        "model.max_positions": 0 if family == "encdec" else length,
        "train.sequence_length": length,
        "train.decoder_length": length // 2 if family == "encdec" else 0,
        "train.global_batch": batch,
        "train.micro_batch": batch,
        "engine.recompute": rng.choice(["none", "selective", "full"]),
    }
    assignments = [f"{key}={value}" for key, value in values.items()]
    return resolve(PRESET[family], proxy=True, environment={}, assignments=assignments).config


@pytest.mark.long
def test_the_time_of_unseen_shapes_is_predicted_after_a_short_calibration(monkeypatch, capsys):
    # processor time of one thread: what a quiet machine's clock shows, on a busy one too
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=time.process_time))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = random.Random(7)
    try:
        with distributed_world(60) as world:

            def seconds(config):
                return measure.measure_step_seconds(config, world, budget_seconds=1.0)

            began = time.monotonic()
            fitted = calibrate(seconds, peak_flops=1e11, threads=1, measured_at="now")
            calibrated = time.monotonic() - began
            errors = []
            for family in ("gpt", "bert", "encdec") * 4:
                config = unseen_config(family, rng)
                errors.append(abs(fitted.step_time(config).seconds / seconds(config) - 1))
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        print(
            f"\nmedian {median(errors):.1%}, largest {max(errors):.1%}, calibration {calibrated:.1f} s",
            end="",
        )
    assert median(errors) < 0.15 and calibrated < 30
