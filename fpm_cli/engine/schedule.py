"""The learning rate as a pure function of the step, so that a resumed run needs no schedule state."""

import math

from fpm_cli.config.schema import TrainConfig


def learning_rate(train: TrainConfig, step: float) -> float:
    """The learning rate of optimizer step `step` (the first is 0), or between two of them.

    Warm-up is linear from lr/warmup to lr. Then `cosine` and `linear` fall to `min_lr` at the last
    step, `inverse-sqrt` follows lr * sqrt(warmup / step) ("noam") down to `min_lr`, `constant` stays, and
    `wsd` stays until the last `decay_steps`, in which it falls linearly to `min_lr` (Hu et al. 2024,
    "MiniCPM", arXiv 2404.06395, section 4).
    """
    if step < train.warmup_steps:
        return train.lr * min(1.0, (step + 1) / train.warmup_steps)
    if train.schedule == "constant":
        return train.lr
    if train.schedule == "wsd":
        remaining = min(1.0, max(0.0, (train.steps - step) / train.decay_steps))
        return train.min_lr + (train.lr - train.min_lr) * remaining
    if train.schedule == "inverse-sqrt":
        return max(train.min_lr, train.lr * math.sqrt(max(train.warmup_steps, 1) / (step + 1)))
    done = (step - train.warmup_steps) / max(train.steps - train.warmup_steps, 1)  # 0 to 1
    share = (
        0.5 * (1 + math.cos(math.pi * min(done, 1.0))) if train.schedule == "cosine" else max(0.0, 1 - done)
    )
    return train.min_lr + (train.lr - train.min_lr) * share
