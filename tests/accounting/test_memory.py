"""Planned memory follows DeepSpeed 0.19: gradients under ZeRO 1, copies while the optimizer steps."""

import pytest

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.memory import device_memory
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.plan import plan
from fpm_cli.accounting.sharding import state_bytes
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve

H100 = find_device("H100")


def config_of(stage, *values):
    return resolve("CPM-X-L", environment={}, assignments=[f"engine.zero_stage={stage}", *values]).config


def test_zero_1_holds_all_gradients_until_the_end_of_accumulation_and_zero_2_a_share():
    held = {stage: plan(config_of(stage), H100, 8).memory.grads for stage in (0, 1, 2, 3)}
    assert held[0] == held[1] == 2 * count_parameters(config_of(1))
    assert held[2] == pytest.approx(2 * held[1] / 8, rel=0.05)  # its share, summed in float32
    assert held[3] == pytest.approx(2 * held[1] / 8, rel=0.01)


def test_mixed_precision_under_zero_0_copies_all_gradients_to_float32_in_the_step():
    config = config_of(0)
    assert state_bytes(config, "bf16", 1).step == (2 + 4) * count_parameters(config)
    assert state_bytes(config, "fp32", 1).step == 4 * count_parameters(config)


def test_offload_under_zero_1_leaves_the_gradients_on_the_device():
    kept = plan(config_of(1, "engine.offload=optimizer"), H100, 8).memory
    assert kept.grads == 2 * count_parameters(config_of(1)) and kept.optimizer == 0
    assert plan(config_of(2, "engine.offload=optimizer"), H100, 8).memory.grads == 0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_logit_takes_twelve_bytes_in_the_backward_pass_of_the_loss(precision):
    by_vocabulary = []
    for vocab_size in (30_000, 31_000):
        config = config_of(3, "model.hidden_size=64", f"model.vocab_size={vocab_size}")
        split = split_batch(config.train, 512)
        state = state_bytes(config, precision, 512)
        memory = device_memory(config, precision, split)
        model = state.params + state.grads + state.optimizer
        gathered = 64 * vocab_size * {"bf16": 2, "fp32": 4}[precision]
        by_vocabulary.append(memory.total - model - gathered)
    logits = 1000 * 1024 * split_batch(config_of(3).train, 512).micro_batch
    assert (by_vocabulary[1] - by_vocabulary[0]) / logits == pytest.approx(12, rel=0.01)
