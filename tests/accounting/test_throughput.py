import csv
from dataclasses import replace
from statistics import median

import pytest

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.throughput import fit_slowdowns, gpu_step_time, published_slowdowns
from fpm_cli.accounting.work import step_work
from fpm_cli.config.resolve import resolve

# MPT's shapes (mosaicml/llm-foundry, scripts/train/benchmarking): hidden size, layers, heads.
SHAPES = {
    "125m": (768, 12, 12),
    "350m": (1024, 24, 16),
    "760m": (1536, 24, 12),
    "1b": (2048, 24, 16),
    "3b": (2560, 32, 20),
    "7b": (4096, 32, 32),
    "13b": (5120, 40, 40),
    "30b": (7168, 48, 56),
    "70b": (8192, 80, 64),
}
VOCABULARY = 50368
DEVICES = {"h100_80gb": "H100", "a100_80gb": "A100-80", "a100_40gb": "A100-40"}


@pytest.fixture(scope="module")
def published(shared_data):
    """By model: (work, device, precision, devices, seconds per step) of each published bf16 run."""
    with (shared_data / "gpu_throughput" / "llm_foundry.csv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if "fp8" not in row["Precision"]]
    runs = {model: [] for model in SHAPES}
    for row in rows:
        config, devices = config_of(row), int(row["# GPUs"])
        tokens = config.train.global_batch * config.train.sequence_length
        seconds = tokens / (float(row["Throughput (T/s/GPU)"]) * devices)
        work = step_work(config, "bf16", devices)
        if row["Sharding Strategy"] == "SHARD_GRAD_OP":
            # Composer's FSDP reduce-scatters the gradients and gathers the parameters: in these runs of one
            # pass per step two thirds of what DeepSpeed's ZeRO 2 sends, which all-reduces the gradients.
            assert config.train.global_batch == config.train.micro_batch * devices
            work = replace(work, sent_bytes=work.sent_bytes * 2 / 3)
        runs[row["Model"]].append((work, find_device(DEVICES[row["GPU"]]), "bf16", devices, seconds))
    return runs


def config_of(row):
    hidden, layers, heads = SHAPES[row["Model"]]
    values = {
        "model.hidden_size": hidden,
        "model.num_layers": layers,
        "model.num_heads": heads,
        "model.head_size": hidden // heads,
        "model.ffn_size": 4 * hidden,
        "model.vocab_size": VOCABULARY,
        "model.max_positions": row["SeqLen (T)"],
        "model.dropout": 0.0,
        "train.sequence_length": row["SeqLen (T)"],
        "train.micro_batch": row["MicroBatchSize"],
        "train.global_batch": row["GlobalBatchSize"],
        "engine.zero_stage": 3 if row["Sharding Strategy"] == "FULL_SHARD" else 2,
        "engine.recompute": "full" if row["Activation Checkpointing"] == "True" else "none",
    }
    assignments = [f"{key}={value}" for key, value in values.items()]
    return resolve("CPM-X-S", environment={}, assignments=assignments).config


def errors(runs, slowdowns):
    for work, device, precision, devices, seconds in runs:
        yield abs(gpu_step_time(work, device, precision, devices, slowdowns).seconds / seconds - 1)


def test_published_throughput_is_predicted_for_a_model_left_out(published):
    left_out = []
    for model, runs in published.items():
        others = [run for other, known in published.items() if other != model for run in known]
        left_out += errors(runs, fit_slowdowns(others))
    assert len(left_out) == 174
    assert median(left_out) < 0.05


def test_what_is_shipped_is_the_fit_to_all_runs(published):
    every = [run for runs in published.values() for run in runs]
    fitted, shipped = fit_slowdowns(every), published_slowdowns()
    assert shipped.matmul == pytest.approx(fitted.matmul, rel=5e-3)
    assert shipped.attention == pytest.approx(fitted.attention, rel=5e-3)
    assert shipped.activation_bytes == pytest.approx(fitted.activation_bytes, rel=5e-3)
    assert median(errors(every, shipped)) < 0.04


def test_a_precision_that_a_device_lacks_has_no_time():
    work = step_work(resolve("CPM-X-S", environment={}).config, "bf16", 8)
    assert gpu_step_time(work, find_device("V100"), "bf16", 8) is None
