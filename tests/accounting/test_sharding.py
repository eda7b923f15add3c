import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fpm_cli.accounting.sharding import state_bytes
from fpm_cli.config.resolve import resolve

WORKER = Path(__file__).with_name("deepspeed_state.py")
# Odd sizes, so that padding and borders show; 4093 x 52 is too large for ZeRO 3 to leave whole.
GPT = ["model.num_layers=2", "model.hidden_size=52", "model.vocab_size=4093"]
BERT = ["model.num_layers=3", "model.vocab_size=1021"]
ENCDEC = ["model.num_layers=2", "model.vocab_size=777"]
EVERY_STAGE = [("CPM-X-S", stage, "fp32", GPT) for stage in range(4)]
OTHERS = [
    *(("BERT-C", stage, "bf16", BERT) for stage in range(4)),
    *(("CPM-2-X-S", stage, "fp32", ENCDEC) for stage in (1, 2, 3)),
]


SUMS_IN_FP32 = [  # ZeRO 2 and 3 by themselves
    *(("BERT-C", stage, "bf16", [*BERT, "engine.grad_accum_dtype=fp32"]) for stage in (1, 2, 3)),
    *(("BERT-C", stage, "bf16", [*BERT, "engine.grad_accum_dtype=compute"]) for stage in (2, 3)),
]


def measured(cases, num_ranks):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = [",".join([name, str(stage), precision, *sizes]) for name, stage, precision, sizes in cases]
    world = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    outputs = [rank.communicate(timeout=300) for rank in ranks]
    for rank, (_, err) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def check(cases, num_ranks):
    for rank, results in enumerate(measured(cases, num_ranks)):
        for (name, stage, precision, sizes), result in zip(cases, results, strict=True):
            options = [f"engine.zero_stage={stage}", *sizes]
            config = resolve(name, proxy=True, environment={}, assignments=options).config
            expected = state_bytes(config, precision, num_ranks, rank, passes=4 // num_ranks)
            case = f"{name} ZeRO {stage} {precision}, rank {rank} of {num_ranks}"
            assert [expected.params, expected.grads, expected.optimizer] == result, case


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_state_is_what_deepspeed_holds_to_the_byte(num_ranks):
    check(EVERY_STAGE, num_ranks)


@pytest.mark.long
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_sums_of_passes_are_exact_in_either_type(num_ranks):
    check(SUMS_IN_FP32, num_ranks)


@pytest.mark.long
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_mixed_precision_and_the_other_families_are_exact_too(num_ranks):
    check(OTHERS, num_ranks)
