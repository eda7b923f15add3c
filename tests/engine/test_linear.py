"""ZeRO 3 leaves torch's `linear` as it is where whole layers are recomputed, and learns the same."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model

original, losses = torch.nn.functional.linear, []
for stage in (1, 3):
    values = [f"engine.zero_stage={stage}", "engine.recompute=full", "model.num_layers=2", "model.dropout=0"]
    values += ["train.global_batch=2", "train.micro_batch=2"]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config), config, world)
        losses.append([engine.step([synthetic_batch(config, 2)], 1e-3).loss for _ in range(3)])
assert torch.nn.functional.linear is original, "replaced"
assert losses[0] == losses[1], losses
"""


def test_zero_3_with_full_recomputation_keeps_torchs_linear() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
