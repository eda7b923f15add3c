"""`--proxy`: a preset at laptop width.

Width, vocabulary, sequence lengths, batch and steps are reduced; depth, family, objective, norm placement and
tokenizer kind are kept.

The standard deviation of the initial weights scales with 1/sqrt(width): a weight matrix with standard
deviation s and n inputs multiplies the RMS of a normalised input by s*sqrt(n), so 0.02 at width 1024
corresponds to 0.08 at width 64. With 0.02 the branches of the narrow network would contribute far less than
those of the wide one, and depth would hardly matter.

Proxies train for some hundred steps instead of 100,000 and more, and need a high learning rate, at which deep
networks diverge. `train.lr_depth_scaled` (`fpm_cli/engine/optimizer.py`) lets one rate train every depth:
after 102,400 tokens a 128-layer pre-LN prototype was 0.66 nats below the unigram entropy with it, and 0.23
nats where only the rate of the projections was scaled. `tests/engine/test_learning.py` tests the proxies at
full depth.
"""

import math
from typing import Any

from fpm_cli.config.schema import Family, RunConfig

WIDTH = 64
HEADS = 4
# The largest powers of two that can be trained on the packaged samples: the Chinese SentencePiece
# vocabularies need nearly all characters of the sample.
VOCABULARY = {"gpt-zh": 2048, "t5-zh": 2048}
OTHER_VOCABULARY = 1024


# Settings that end clearly below the unigram entropy within a few minutes on two cores. A causal sample
# predicts every token, a masked one 15 % of them, which short sequences and larger batches make easier to
# learn: 90 layers were 0.41 nats below the unigram entropy after 800 steps of 32 sequences and 0.53 nats
# after 800 steps of 64. Other learning rates and more masked tokens did not lower the loss.
FAMILIES: dict[Family, dict[str, int | float]] = {
    "gpt": {"sequence_length": 64, "decoder_length": 0, "global_batch": 4, "steps": 600, "lr": 1e-2},
    "bert": {"sequence_length": 32, "decoder_length": 0, "global_batch": 64, "steps": 1000, "lr": 4e-3},
    "encdec": {"sequence_length": 64, "decoder_length": 32, "global_batch": 16, "steps": 1000, "lr": 6e-3},
}


# The learning rate of a proxy with COMPLETEP_LAYERS layers and width WIDTH, from which CompleteP derives that
# of every other depth and width (grids: docs/studies.md). GPT's is in the middle of the best rates of 4 to 64
# layers, which decrease with the depth; BERT's is the best of 4 layers.
COMPLETEP_LAYERS = 4
COMPLETEP_LR: dict[Family, float] = {"gpt": 6.5e-3, "bert": 2.5e-3, "encdec": 3e-3}


def completep_assignments(config: RunConfig) -> tuple[str, ...]:
    """CompleteP as key=value. A proxy's base is the network with the tuned rate; a preset is its own base."""
    width, layers = config.model.hidden_size, config.model.num_layers
    settings = ["model.residual_init_scaled=false", "train.lr_depth_scaled=false"]
    if config.proxy:
        width, layers, lr = WIDTH, COMPLETEP_LAYERS, COMPLETEP_LR[config.family]
        settings += [f"train.lr={lr}", f"train.min_lr={lr / 10}"]
    return (f"transfer.base_width={width}", f"transfer.base_layers={layers}", *settings)


def proxy_layer(config: RunConfig) -> dict[str, Any]:
    """The configuration layer that turns the preset `config` into its proxy."""
    model, family = config.model, FAMILIES[config.family]
    return {
        "proxy": True,
        "model": {
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "head_size": WIDTH // HEADS,
            "ffn_size": round(WIDTH * model.ffn_size / model.hidden_size),
            "vocab_size": VOCABULARY.get(config.tokenizer, OTHER_VOCABULARY),
            "max_positions": family["sequence_length"] if model.max_positions else 0,
            "init_std": model.init_std * math.sqrt(model.hidden_size / WIDTH),
            "dropout": 0.0,
        },
        "train": {
            **family,
            "micro_batch": 32,
            "min_lr": family["lr"] / 10,
            "lr_depth_scaled": True,
            "schedule": "cosine",
            "warmup_steps": 40,
            "beta2": 0.95,
            "eval_every": 200,
            "eval_samples": 128,
            "save_every": 200,
            "log_every": 20,
        },
        "engine": {"recompute": "none", "zero_stage": 1},
    }
