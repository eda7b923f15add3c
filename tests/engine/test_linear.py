"""torch's `linear` under ZeRO 3: kept where whole layers are recomputed, and put back in every case."""

import subprocess
import sys

PROGRAM = """
import torch
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model

original, losses = torch.nn.functional.linear, []
for stage, recompute in ((1, "full"), (3, "full"), (3, "none")):
    values = [f"engine.zero_stage={stage}", f"engine.recompute={recompute}", "model.num_layers=2"]
    values += ["model.dropout=0", "train.global_batch=2", "train.micro_batch=2"]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config), config, world)
        losses.append([engine.step([synthetic_batch(config, 2)], 1e-3).loss for _ in range(3)])
        replaced = torch.nn.functional.linear is not original
        assert replaced == (stage == 3 and recompute == "none"), (stage, recompute, replaced)
    assert torch.nn.functional.linear is original, "not put back"
assert losses[0] == losses[1], losses
"""


def test_zero_3_replaces_torchs_linear_until_its_process_group_ends_and_not_with_full_recomputation() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
