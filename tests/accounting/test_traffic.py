"""What the plan says that ranks send to each other, beside the collectives that DeepSpeed really calls."""

import pytest

from fpm_cli.accounting.work import step_work
from fpm_cli.config.resolve import resolve
from tests.engine.gloo_ranks import run_ranks

VALUES = ["model.num_layers=2", "model.dropout=0", "train.sequence_length=32", "train.global_batch=8"]
VALUES += ["train.micro_batch=1", "engine.kernels=reference", "engine.recompute=full"]
VALUES += ["engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=1"]

# Bytes that one of n ranks sends by ring algorithms: each collective of b bytes takes (n - 1) / n of it, an
# all-reduce twice.
PROGRAM = """
import json, sys
import torch, torch.distributed as dist

sent = [0.0]

def counted(name, share, place, *names):
    original = getattr(dist, name)
    def call(*arguments, **named):
        if counting:
            found = [named[each] for each in names if each in named]
            tensor = found[0] if found else arguments[place]
            size = dist.get_world_size()
            sent[0] += share * (size - 1) / size * tensor.numel() * tensor.element_size()
        return original(*arguments, **named)
    setattr(dist, name, call)

counting = False
counted("all_reduce", 2, 0, "tensor")
counted("all_gather_into_tensor", 1, 0, "output_tensor")
counted("reduce_scatter_tensor", 1, 1, "input_tensor", "input")

from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model

config = resolve("CPM-X-S", proxy=True, environment={}, assignments=sys.argv[1:]).config
with distributed_world(60, launched=True) as world:
    engine = TrainingEngine(build_model(config), config, world)
    batches = [synthetic_batch(config, 1) for _ in range(4)]
    engine.step(batches, 1e-3)
    counting = True
    engine.step(batches, 1e-3)
    print(json.dumps(sent[0]))
"""


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_planned_traffic_is_what_the_collectives_move(stage: int) -> None:
    arguments = [*VALUES, f"engine.zero_stage={stage}"]
    measured = run_ranks(PROGRAM, arguments, 2)
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=arguments).config
    planned = step_work(config, "fp32", 2).sent_bytes
    # A network of fewer than 1e9 parameters is gathered once per pass, and kept for the backward pass.
    expected = planned * (2 / 3 if stage == 3 else 1)
    assert measured == pytest.approx([expected] * 2, rel=0.01)
