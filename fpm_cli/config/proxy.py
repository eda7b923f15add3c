"""`--proxy`: the same network at laptop width. Width, vocabulary, lengths, batch and steps shrink;
depth, family, objective, norm placement and tokenizer kind do not.

Initialisation scales with 1/sqrt(width): a weight matrix with standard deviation s and n inputs
multiplies the size of a normalised signal by s*sqrt(n), so 0.02 at width 1024 is 0.08 at width 64.
Keeping 0.02 would leave the branches of a narrow network far weaker than in the wide one it stands
for, and its depth would hardly count.
"""

import math
from typing import Any

from fpm_cli.config.schema import RunConfig

WIDTH = 64
HEADS = 4
# The largest round sizes that the packaged samples carry: character vocabularies need fewer pieces
# than a bert-zh sample has, and SentencePiece needs nearly all of a gpt-zh sample's characters.
VOCABULARY = {"gpt-zh": 2048, "t5-zh": 2048}
OTHER_VOCABULARY = 1024


def proxy_layer(config: RunConfig) -> dict[str, Any]:
    """The values that turn the plain preset `config` into its proxy, as a configuration layer."""
    model, train = config.model, config.train
    return {
        "proxy": True,
        "model": {
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "head_size": WIDTH // HEADS,
            "ffn_size": round(WIDTH * model.ffn_size / model.hidden_size),
            "vocab_size": VOCABULARY.get(config.tokenizer, OTHER_VOCABULARY),
            "max_positions": 128 if model.max_positions else 0,
            "init_std": model.init_std * math.sqrt(model.hidden_size / WIDTH),
            "dropout": 0.0,
        },
        "train": {
            "sequence_length": 128,
            "decoder_length": 64 if train.decoder_length else 0,
            "global_batch": 8,
            "micro_batch": 8,
            "steps": 300,
            "lr": 1e-3,
            "min_lr": 1e-4,
            "schedule": "cosine",
            "warmup_steps": 30,
            "eval_every": 100,
            "eval_samples": 64,
            "save_every": 100,
            "log_every": 10,
        },
        "engine": {"recompute": "none"},
    }
