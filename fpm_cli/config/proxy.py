"""`--proxy`: the same network at laptop width. Width, vocabulary, lengths, batch and steps shrink;
depth, family, objective, norm placement and tokenizer kind do not.

Initialisation scales with 1/sqrt(width): a weight matrix with standard deviation s and n inputs
multiplies the size of a normalised signal by s*sqrt(n), so 0.02 at width 1024 is 0.08 at width 64.
Keeping 0.02 would leave the branches of a narrow network far weaker than in the wide one it stands
for, and its depth would hardly count.

Proxies learn in some hundred steps, where the presets take 100,000 and more, so they need a high
learning rate, which deep networks do not survive. What lets every depth learn at the same rate is
`train.lr_depth_scaled` (see `fpm_cli/engine/optimizer.py`): after the same 102,400 tokens a 128-layer
pre-LN prototype was 0.66 nat below the unigram level with it, and 0.23 with the projections' rate alone
scaled. `tests/engine/test_learning.py` holds the evidence for the proxies as they are.
"""

import math
from typing import Any

from fpm_cli.config.schema import Family, RunConfig

WIDTH = 64
HEADS = 4
# The largest round sizes that the packaged samples carry: character vocabularies need fewer pieces
# than a bert-zh sample has, and SentencePiece needs nearly all of a gpt-zh sample's characters.
VOCABULARY = {"gpt-zh": 2048, "t5-zh": 2048}
OTHER_VOCABULARY = 1024


# What each objective needs to leave the unigram level behind in a few minutes on two cores. A causal
# sample predicts every token; a masked one a seventh of them, from neighbours that it must first learn
# to find, which short sequences and larger batches make easier: 90 layers were 0.41 nat below the unigram
# level after 800 steps of 32 sequences and 0.53 after as many of 64; other rates and more masked tokens
# did not help.
FAMILIES: dict[Family, dict[str, int | float]] = {
    "gpt": {"sequence_length": 64, "decoder_length": 0, "global_batch": 4, "steps": 600, "lr": 1e-2},
    "bert": {"sequence_length": 32, "decoder_length": 0, "global_batch": 64, "steps": 1000, "lr": 4e-3},
    "encdec": {"sequence_length": 64, "decoder_length": 32, "global_batch": 16, "steps": 1000, "lr": 6e-3},
}


# The rate of a proxy of COMPLETEP_LAYERS layers and WIDTH, from which CompleteP derives those of every other
# depth and width (docs/studies.md has the grids).
COMPLETEP_LAYERS = 4
COMPLETEP_LR: dict[Family, float] = {"gpt": 8e-3, "bert": 2.5e-3, "encdec": 3e-3}


def completep_assignments(config: RunConfig) -> tuple[str, ...]:
    """CompleteP as key=value. A proxy's base is the network whose rate was tuned; a preset is its own."""
    width, layers = config.model.hidden_size, config.model.num_layers
    settings = ["model.residual_init_scaled=false", "train.lr_depth_scaled=false"]
    if config.proxy:
        width, layers, lr = WIDTH, COMPLETEP_LAYERS, COMPLETEP_LR[config.family]
        settings += [f"train.lr={lr}", f"train.min_lr={lr / 10}"]
    return (f"transfer.base_width={width}", f"transfer.base_layers={layers}", *settings)


def proxy_layer(config: RunConfig) -> dict[str, Any]:
    """The values that turn the plain preset `config` into its proxy, as a configuration layer."""
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
