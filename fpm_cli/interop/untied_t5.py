"""T5 with an untied output head, for transformers 5, whose T5 models tie it to the embedding.

transformers 5 ties `lm_head` to `shared` in T5, MT5 and UMT5 whatever the configuration says
(`T5Config.__post_init__` there), and so would lose the head of a T5 v1.1 or of fpm's encoder-decoder.
These two classes change only that. `fpm export` writes this file beside the weights; transformers runs it
only with `trust_remote_code=True`.
"""

from typing import Any, ClassVar

from transformers import T5Config, T5ForConditionalGeneration


class UntiedT5Config(T5Config):  # type: ignore[misc]
    """T5's configuration; the hidden states before the head are not scaled, as in T5 v1.1."""

    model_type = "fpm_t5"

    def __post_init__(self, **kwargs: Any) -> None:
        """See `T5Config`."""
        super().__post_init__(**kwargs)
        self.scale_decoder_outputs = False


class UntiedT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 with only its two input embeddings tied to the shared one."""

    config_class = UntiedT5Config
    _tied_weights_keys: ClassVar = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }
