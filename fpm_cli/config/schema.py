"""The configuration of one run: everything that decides what is trained and how, validated once.

A preset file, a user's `--config` file, `FPM_*` variables and `--set` flags are merged as plain
dictionaries (`fpm_cli.config.resolve`) and validated here; below the command line only these typed objects
are passed on. This file holds what concerns several sections; each section is in `sections.py`.
"""

from typing import Self

from pydantic import Field, model_validator

from fpm_cli.config.deepspeed import decided_options
from fpm_cli.config.deepspeed_options import check_options
from fpm_cli.config.sections import (
    CorpusSource,
    EngineConfig,
    Family,
    FinetuneConfig,
    Language,
    ModelConfig,
    PaperFacts,
    Precision,
    TokenizerKind,
    TrackConfig,
    TrainConfig,
    TransferConfig,
)
from fpm_cli.frozen import Frozen

__all__ = [
    "EngineConfig",
    "Family",
    "FinetuneConfig",
    "Language",
    "ModelConfig",
    "PaperFacts",
    "Precision",
    "RunConfig",
    "TokenizerKind",
    "TrackConfig",
    "TrainConfig",
    "TransferConfig",
]


class RunConfig(Frozen):
    """One preset, or one run: everything that decides what is trained and how."""

    name: str
    family: Family
    language: Language
    tokenizer: TokenizerKind
    corpus: CorpusSource
    corpus_size: str = Field(description="as printed in Table 2")
    proxy: bool = False
    model: ModelConfig
    train: TrainConfig
    engine: EngineConfig = EngineConfig()
    transfer: TransferConfig | None = None
    finetune: FinetuneConfig | None = None
    track: TrackConfig | None = None
    paper: PaperFacts | None = None

    @model_validator(mode="after")
    def _check_deepspeed(self) -> Self:
        check_options(self.engine.deepspeed, decided_options(self.train, self.engine))
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.transfer:
            if self.model.norm_placement != "pre":
                raise ValueError(
                    f"transfer: its rules are for norm_placement 'pre', not {self.model.norm_placement!r}"
                )
            if self.model.residual_init_scaled or self.train.lr_depth_scaled:
                raise ValueError(
                    "transfer: it scales with depth itself; set model.residual_init_scaled and "
                    "train.lr_depth_scaled to false"
                )
        if self.model.norm_scaled:
            if self.model.norm_placement != "pre":
                raise ValueError(
                    f"model.norm_scaled: it is for norm_placement 'pre', not {self.model.norm_placement!r}"
                )
            if self.model.residual_init_scaled or self.transfer:
                raise ValueError(
                    "model.norm_scaled: it scales with depth itself; set model.residual_init_scaled to false "
                    "and leave out transfer"
                )
        for key in ("document_mask", "mask_eod_loss"):
            if self.family != "gpt" and getattr(self.train, key):
                raise ValueError(f"train.{key}: only the gpt family joins documents into one stream")
        if self.family != "bert" and self.finetune and self.finetune.pooling != "default":
            pooling = self.finetune.pooling
            raise ValueError(f"finetune.pooling {pooling!r}: only bert has it, and this is {self.family}")
        if self.family != "bert" and self.model.sentence_task != "order":
            raise ValueError(f"model.sentence_task: only bert has one, and this is {self.family}")
        if self.family == "encdec":
            if self.model.num_layers % 2:
                raise ValueError(f"model.num_layers {self.model.num_layers}: two stacks need an even number")
            if not self.train.decoder_length:
                raise ValueError("train.decoder_length: the encoder-decoder family needs one")
            if self.model.norm_placement == "post":
                raise ValueError(
                    "model.norm_placement 'post': the encoder-decoder family has pre or deepnorm"
                )
        else:
            if self.train.sequence_length > self.model.max_positions:
                raise ValueError(
                    f"train.sequence_length {self.train.sequence_length} is above "
                    f"model.max_positions {self.model.max_positions}"
                )
            if self.train.decoder_length:
                raise ValueError(f"train.decoder_length: the {self.family} family has no decoder of its own")
        return self
