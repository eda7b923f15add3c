"""The sections of a run's configuration: model, training, engine, fine-tuning, and the paper's own figures.

Frozen pydantic models; unknown keys are refused. Sizes are in tokens, sequences or elements as the name
says.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fpm_cli.frozen import Frozen

Family = Literal["gpt", "bert", "encdec"]
Language = Literal["en", "zh"]
TokenizerKind = Literal["gpt-en", "gpt-zh", "t5-zh", "t5-en", "bert-en", "bert-zh"]
NormPlacement = Literal["pre", "post", "deepnorm"]
Recompute = Literal["none", "selective", "full"]
CorpusSource = Literal["pile", "wudao", "stc"]
Precision = Literal["fp32", "bf16", "fp16"]
MAX_COUNT = 2**31 - 1
MAX_SECONDS = 10 * 365 * 86_400.0  # ten years
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class ConfigSection(Frozen):
    """Numbers are finite, and `true` is no number."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name
        kind = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and kind is not bool and kind is not None and "bool" not in str(kind):
            raise ValueError("true and false are not accepted here")
        return value


class ModelConfig(ConfigSection):
    """The architecture, enough to count every parameter without building anything.

    `num_layers` is what Table 2 prints: for `encdec` it counts both stacks together.
    """

    num_layers: Count
    hidden_size: Count
    num_heads: Count
    head_size: Count
    ffn_size: Count
    vocab_size: Count
    max_positions: CountOrZero = Field(description="learned positions; 0 for relative position bias")
    norm_placement: NormPlacement = "pre"
    norm_epsilon: PositiveFloat
    init_std: PositiveFloat = Field(description="standard deviation of every weight matrix at initialisation")
    residual_init_scaled: bool = Field(True, description="projections into the residual stream by 1/sqrt(2L)")
    norm_scaled: bool = Field(
        False, description="norms of layer l times 1/sqrt(l): LayerNorm Scaling (arXiv 2502.05795)"
    )
    dropout: float = Field(0.1, ge=0, lt=1)
    sentence_task: Literal["order", "match"] = Field(
        "order",
        description="bert: tell swapped halves of a sample, or find each half's other in the micro-batch",
    )

    @property
    def attention_size(self) -> int:
        """Width of queries, keys and values over all heads."""
        return self.num_heads * self.head_size


class TrainConfig(ConfigSection):
    """The objective's lengths, the optimizer, the schedule and the pace of checkpoints."""

    sequence_length: Count = Field(description="tokens per sample (encoder tokens for encdec)")
    decoder_length: CountOrZero = Field(0, description="decoder tokens per sample, encdec only")
    document_mask: bool = Field(
        False, description="gpt: attention and positions stay within a document, which ends in <eod>"
    )
    mask_eod_loss: bool = Field(False, description="gpt: no loss where the input is <eod>")
    masked_share: float = Field(
        0.15,
        gt=0,
        le=0.8,
        description="bert: of the tokens, those to predict; more of them suit short trainings",
    )
    global_batch: Count = Field(description="sequences per optimizer step over all devices")
    micro_batch: Count = Field(description="sequences per device and forward pass, at most")
    steps: Count
    budget_seconds: Seconds | None = Field(
        None, description="wall-clock time for all launches together, in which the schedule is run through"
    )
    lr: PositiveFloat
    min_lr: float = Field(0.0, ge=0)
    lr_depth_scaled: bool = Field(
        False, description="layers learn at lr/sqrt(2L), their projections into the residual stream at lr/2L"
    )
    layer_lr_decay: float = Field(
        1.0, gt=0, le=1, description="each layer's share of the learning rate of the layer above it"
    )
    schedule: Literal["cosine", "linear", "inverse-sqrt", "constant", "wsd"] = Field(
        description="wsd: warm-up, constant, then linear decay over decay_share of the steps"
    )
    decay_share: float = Field(
        0.2, gt=0, lt=1, description="wsd: share of the steps in which the rate decays"
    )
    warmup_steps: CountOrZero
    weight_decay: float = Field(0.01, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: PositiveFloat = 1e-8
    clip_norm: PositiveFloat = 1.0
    seed: int = Field(1234, ge=0, lt=2**31)
    eval_every: Count = 1000
    eval_samples: Count = Field(256, description="validation sequences scored at each evaluation")
    save_every: Count = 1000
    keep_steps: tuple[Count, ...] = Field(
        (), description="steps whose checkpoints are saved and never deleted"
    )
    log_every: Count = 10
    layer_statistics: bool = Field(
        False, description="log each layer's gradient norm and activation RMS every log_every steps"
    )

    spike_sigmas: float = Field(
        6.0,
        ge=0,
        description="skip a step whose loss or gradient norm is this far above the last ones; 0: never",
    )
    spike_window: int = Field(128, ge=8, le=10**6, description="steps that a spike is judged against")
    spike_patience: Count = Field(
        3, description="skips in a row after which training goes back to a checkpoint, past their batches"
    )

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint is due after optimizer step `step`."""
        return step % self.save_every == 0 or step in self.keep_steps

    @property
    def decay_steps(self) -> int:
        """The steps at the end of a `wsd` schedule in which the learning rate decays, at least 1."""
        return max(1, round(self.decay_share * self.steps))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self


class TransferConfig(ConfigSection):
    """How the learning rate of a small network serves deeper and wider ones: CompleteP (arXiv 2505.01618).

    `train.lr`, `train.weight_decay`, `train.adam_epsilon` and `model.init_std` are those of a network of
    `base_width` and `base_layers`; every other depth and width derives its own from them.
    """

    base_width: Count
    base_layers: Count


class FinetuneConfig(ConfigSection):
    """What fine-tuning plans in: `train.steps` and `train.warmup_steps` follow from it and the examples."""

    epochs: PositiveFloat = 3.0
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    pooling: Literal["default", "mean", "compare"] = Field(
        "default",
        description="bert: classify the pooled [CLS], the mean of all tokens, or a pair's means compared",
    )
    both_orders: bool = Field(
        False, description="of pairs: train on A B and B A in turns, and score by the mean of both"
    )


class EngineConfig(ConfigSection):
    """How the step runs: precision, sharding, recomputation. None of it changes what is learnt."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, fp32 on CPU"
    )
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: Literal["none", "optimizer", "parameters"] = "none"
    recompute: Recompute = Field(
        "full", description="full: each layer's inside; selective: each layer's MLP, the larger half of it"
    )
    timeout_seconds: Seconds = Field(600.0, description="a collective that waits longer fails")
    async_save: bool = Field(
        True, description="write checkpoints behind the next steps, from a copy, where the host has room"
    )
    keep_last: Count = Field(3, description="checkpoints to keep, the newest ones")
    keep_best: bool = Field(True, description="keep the one of the lowest validation loss too")
    kernels: Literal["auto", "reference"] = Field(
        "auto", description="auto: the compiled operators where they are built; reference: PyTorch's own"
    )
    kernels_folder: str = Field("", description="where they are built; empty: in the user's cache folder")
    min_loss_scale: Count = Field(1, description="fp16: a run that needs a smaller one has diverged")
    grad_accum_dtype: Literal["auto", "fp32", "compute"] = Field(
        "auto",
        description="sums of a step's bf16 gradients; auto: fp32 under ZeRO 2 and 3 without offload",
    )
    deterministic: bool = Field(
        False, description="GPUs: slower kernels that compute the same bits each time, so that runs repeat"
    )
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="passed through, merged last")

    def resolve_precision(self, *, has_bf16: bool) -> Precision:
        """What `precision` means on a device; `auto` is bf16 where the device computes in it, else fp32.

        Emulated bf16 does not count: it is slower than fp32 on V100 and on most processors.
        """
        if self.precision == "auto":
            return "bf16" if has_bf16 else "fp32"
        return self.precision

    def accumulates_in_fp32(self, precision: Precision, num_micro_batches: int) -> bool:
        """Whether bf16 gradients of several passes are added in float32.

        bf16 has 8 significant bits: sums of 8, 32 and 64 passes are off by 0.4, 0.7 and 1 % of their norm.
        Float32 costs nothing under ZeRO 2, 2 bytes per parameter of the shard under ZeRO 3, and under ZeRO 1
        4 bytes instead of 2 per parameter on every rank, which `auto` saves. ZeRO 0 has no float32 sums. With
        offload `auto` leaves the sums to the host, in bf16, as the device is short of memory.
        """
        several_bf16 = precision == "bf16" and num_micro_batches > 1
        if self.grad_accum_dtype == "auto" and self.offload != "none":
            return False
        lowest_stage = {"auto": 2, "fp32": 1, "compute": 4}[self.grad_accum_dtype]
        return several_bf16 and self.zero_stage >= lowest_stage

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.offload != "none" and not self.zero_stage:
            raise ValueError(f"offload {self.offload!r}: DeepSpeed offloads under zero_stage 1, 2 or 3")
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(f"offload 'parameters': needs zero_stage 3, not {self.zero_stage}")
        if self.grad_accum_dtype == "fp32" and not self.zero_stage:
            raise ValueError("grad_accum_dtype 'fp32': DeepSpeed adds in float32 under zero_stage 1, 2 or 3")
        if self.precision == "fp16" and not self.zero_stage:  # 0.19: `engine.backward` scales for ZeRO alone
            raise ValueError(
                "precision fp16 under zero_stage 0: DeepSpeed unscales gradients there that it never scaled, "
                "and too little is learnt; take engine.zero_stage=1, or engine.precision=bf16"
            )
        return self


class TrackConfig(ConfigSection):
    """An experiment tracker that receives the rows of metrics.jsonl as well; an optional dependency each."""

    tool: Literal["none", "trackio", "wandb", "mlflow"] = "none"
    project: str = Field("fpm", min_length=1, description="what the tracker files the runs under")
    online: bool = Field(
        False, description="send to the server that the tool's own settings name; false: stay on this machine"
    )


class PaperFacts(ConfigSection):
    """What the paper prints about the model, kept apart from what the architecture gives."""

    params: str = Field(description="as printed in Table 2")
    hours: PositiveFloat = Field(description="Table 4")
    steps: Count = Field(description="Table 4")
    gpus: Count = Field(description="Table 4")
    eflops: Count = Field(description="Table 4, as printed")
