"""ZeRO 3 over two servers keeps a second copy of the weights in each, and learns exactly the same."""

import pytest

from fpm_cli.accounting.sharding import secondary_elements
from fpm_cli.config.resolve import resolve
from tests.engine.gloo_ranks import run_ranks

VALUES = ["engine.zero_stage=3", "model.num_layers=2", "model.dropout=0", "train.sequence_length=32"]
VALUES += ["train.global_batch=8", "train.micro_batch=1", "engine.kernels=reference"]
VALUES += ["engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=100"]

PROGRAM = """
import json, sys, torch
from fpm_cli.config.resolve import resolve
from fpm_cli.engine import flat_partitions
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.start import allocate_network, fill_masters
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_network
from fpm_cli.models.initialise import InitialValues

config = resolve("CPM-X-S", proxy=True, environment={}, assignments=sys.argv[1:]).config
with distributed_world(60, launched=True) as world:
    engine = TrainingEngine(allocate_network(lambda: build_network(config), config, world), config, world)
    partitions = flat_partitions.find_partitions(engine.model, engine.deepspeed.optimizer, world.rank)
    with torch.device("meta"):
        values = InitialValues(build_network(config), config)
    torch.manual_seed(2)
    batches = [synthetic_batch(config, 1) for _ in range(8)][2 * world.rank : 2 * world.rank + 2]
    secondary, backward = [], engine.deepspeed.backward

    def watched_backward(loss):
        copies = [parameter.ds_secondary_tensor for parameter in engine.model.parameters()]
        secondary.append(sum(copy.numel() for copy in copies if copy is not None))
        backward(loss)

    engine.deepspeed.backward = watched_backward
    losses = []
    for _ in range(2):  # the second time as a checkpoint is loaded in the middle of training
        fill_masters(partitions, values)
        flat_partitions.refresh_model_weights(engine.deepspeed.optimizer)
        losses.append([engine.step(batches, 1e-3).loss for _ in range(3)])
    print(json.dumps([losses, max(secondary)]))
"""


@pytest.mark.long
@pytest.mark.parametrize("recompute", ["full", "none"])
def test_a_second_copy_in_each_server_changes_no_loss(recompute: str) -> None:
    arguments = [*VALUES, f"engine.recompute={recompute}"]
    one_server, two_servers = (
        run_ranks(PROGRAM, arguments, 4, ranks_per_host=per_server) for per_server in (4, 2)
    )
    losses, secondary = one_server[0]
    assert secondary == 0
    assert losses[0][2] < losses[0][0] - 0.3
    assert losses[1][0] == losses[0][0], "the copies of the earlier weights are gone"
    assert [rank[0] for rank in two_servers] == [losses] * 4
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=arguments).config
    planned = secondary_elements(config, 4, 2)
    assert [rank[1] for rank in two_servers] == pytest.approx([planned] * 4, rel=0.01)  # whole small ones
    assert secondary_elements(config, 4, 4) == secondary_elements(config, 4, 1) == 0
