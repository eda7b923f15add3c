"""This machine's speed, measured: real optimizer steps on random tokens, large matrix products."""

import time

import torch
from torch import Tensor

from fpm_cli.accounting.flops import masked_positions
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import TrainingEngine, batch_shape
from fpm_cli.engine.world import World
from fpm_cli.models.build import build_model

MAX_STEPS = 12


def measure_step_seconds(config: RunConfig, world: World, *, budget_seconds: float) -> float:
    """The fastest of a few optimizer steps, so that other work on the machine disturbs little.

    Args:
        config: what to train.
        world: from `joined_world`.
        budget_seconds: no step starts later than this after the first.
    """
    engine = TrainingEngine(build_model(config, world.device), config, world)
    shape = batch_shape(config, world.size)
    batches = [synthetic_batch(config, shape.size) for _ in range(shape.count)]
    engine.step(batches, lr=1e-4)  # the first step allocates
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < MAX_STEPS and (not seconds or time.perf_counter() - began < budget_seconds):
        start = time.perf_counter()
        engine.step(batches, lr=1e-4)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_matmul_flops(*, budget_seconds: float) -> float:
    """FLOP/s of large float32 matrix products on the processor, the best of a few."""
    size = 1024  # 12 MB in three matrices: past the inner caches
    a, b = torch.ones(size, size), torch.ones(size, size)
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < budget_seconds:
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def synthetic_batch(config: RunConfig, size: int) -> dict[str, Tensor]:
    """A batch of `size` sequences of random tokens, with the keys and shapes that the family takes."""
    generator = torch.Generator().manual_seed(config.train.seed)
    s, s_d = config.train.sequence_length, config.train.decoder_length

    def ids(length: int) -> Tensor:
        return torch.randint(0, config.model.vocab_size, (size, length), generator=generator)

    keep = torch.ones(size, s, dtype=torch.bool)
    if config.family == "gpt":
        return {"tokens": ids(s), "labels": ids(s), "loss_mask": keep.float()}
    if config.family == "bert":
        masked = torch.zeros(size, s)
        masked[:, : masked_positions(config.train)] = 1.0
        second_half = (torch.arange(s) >= s // 2).long().expand(size, s)
        return {
            "tokens": ids(s),
            "token_types": second_half.contiguous(),
            "attention_mask": keep,
            "labels": ids(s),
            "loss_mask": masked,
            "sentence_order": torch.zeros(size, dtype=torch.long),
        }
    return {
        "encoder_tokens": ids(s),
        "encoder_mask": keep,
        "decoder_tokens": ids(s_d),
        "labels": ids(s_d),
        "loss_mask": torch.ones(size, s_d),
    }
