"""FLOPs of a training step from the structure: matrix multiplications at 2 FLOPs per multiply-add.

Three conventions, which are always named:

1. *peak budget*: seconds x devices x the device's dense peak, which Table 4 of the paper prints.
2. *model FLOPs*: forward and backward pass without recomputation; the numerator of MFU.
3. *hardware FLOPs*: model FLOPs and recomputation; the numerator of HFU.

The backward pass of a matrix product consists of two products of the same size, so a step costs three forward
passes. Full recomputation repeats the forward pass of the layers, without embedding and heads; selective
recomputation repeats that of the MLPs. PyTorch stops recomputing a layer as soon as all saved tensors are
restored: where nothing after the last projection is saved (pre-norm without dropout), that projection is
not repeated. Causal attention is counted in full, as by Narayanan et al. 2021 (Megatron-LM, arXiv:2104.04473)
and Chowdhery et al. 2022 (PaLM, appendix B); `causal="halved"` leaves out the part above the diagonal.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fpm_cli.config.schema import ModelConfig, RunConfig, TrainConfig

Causal = Literal["full", "halved"]
SENTENCE_ORDERS = 2


@dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of one sample's forward pass; `attention` is scores and weighted sums, without projections."""

    projections: int
    attention: int
    heads: int

    @property
    def layers(self) -> int:
        """All layers, without embedding and heads."""
        return self.projections + self.attention

    @property
    def total(self) -> int:
        """The whole forward pass."""
        return self.layers + self.heads


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one optimizer step over the global batch, by conventions 2 and 3."""

    model: int
    hardware: int
    tokens: int

    @property
    def model_per_token(self) -> float:
        """Model FLOPs per token, where encoder and decoder tokens both count."""
        return self.model / self.tokens


def masked_positions(train: TrainConfig) -> int:
    """The number of positions of a BERT sequence that are predicted; logits are computed only for these."""
    return int(train.masked_share * train.sequence_length)


def tokens_per_sample(config: RunConfig) -> int:
    """Positions that the layers process per sample: those of the encoder and the decoder."""
    return config.train.sequence_length + config.train.decoder_length


def forward_flops(
    config: RunConfig, *, predicted_positions: int | None = None, causal: Causal = "full"
) -> ForwardFlops:
    """FLOPs of one sample's forward pass.

    Args:
        config: the run; lengths are those of `train`, so padding counts as any other position; a BERT batch
            without its padding takes `unpadded_flops`.
        predicted_positions: of BERT, positions whose logits are computed; by default the masked ones.
        causal: whether a causal score matrix counts in full or as its lower half.
    """
    if config.family == "encdec":
        return _encdec(config, causal)
    model, s = config.model, config.train.sequence_length
    h, a, f = model.hidden_size, model.attention_size, model.ffn_size
    projections = model.num_layers * s * (2 * h * 3 * a + 2 * a * h + 2 * 2 * h * f)
    attention = model.num_layers * _attention(s, s, a)
    if config.family == "gpt":
        heads = 2 * s * h * model.vocab_size
        return ForwardFlops(projections, attention // 2 if causal == "halved" else attention, heads)
    predicted = masked_positions(config.train) if predicted_positions is None else predicted_positions
    masked_lm = predicted * _masked_lm(model)
    if model.sentence_task == "order":
        sentence = 2 * h * h + 2 * h * SENTENCE_ORDERS  # pooler and classifier of [CLS]
    else:
        sentence = 2 * 2 * h * h + 2 * h * config.train.micro_batch  # pooler of both halves, their products
    return ForwardFlops(projections, attention, masked_lm + sentence)


def _encdec(config: RunConfig, causal: Causal) -> ForwardFlops:
    model, s_e, s_d = config.model, config.train.sequence_length, config.train.decoder_length
    d, a, f = model.hidden_size, model.attention_size, model.ffn_size
    layers = model.num_layers // 2  # in each stack
    gated_mlp = 3 * d * f
    encoder = 2 * s_e * (4 * d * a + gated_mlp)
    decoder = 2 * s_d * (4 * d * a + 2 * d * a + gated_mlp) + 2 * s_e * 2 * d * a  # cross: q, o; k, v
    own = _attention(s_d, s_d, a)
    attention = _attention(s_e, s_e, a) + (own // 2 if causal == "halved" else own) + _attention(s_d, s_e, a)
    return ForwardFlops(layers * (encoder + decoder), layers * attention, 2 * s_d * d * model.vocab_size)


def _masked_lm(model: ModelConfig) -> int:
    """FLOPs of the dense layer and the logits of one predicted position of BERT."""
    return 2 * model.hidden_size**2 + 2 * model.hidden_size * model.vocab_size


def _attention(queries: int, keys: int, width: int) -> int:
    """FLOPs of scores and weighted sums over all heads."""
    return 2 * 2 * queries * keys * width


def step_flops(
    config: RunConfig, *, predicted_positions: int | None = None, causal: Causal = "full"
) -> StepFlops:
    """FLOPs of one optimizer step over `train.global_batch` samples, under `engine.recompute`."""
    forward = forward_flops(config, predicted_positions=predicted_positions, causal=causal)
    batch = config.train.global_batch
    model = 3 * batch * forward.total
    repeated = batch * _recomputed(config, forward)
    return StepFlops(model, model + repeated, batch * tokens_per_sample(config))


def mlp_flops(config: RunConfig) -> int:
    """FLOPs of the MLPs in one sample's forward pass."""
    return (3 if config.family == "encdec" else 2) * _mlp_product_flops(config)


def _mlp_product_flops(config: RunConfig) -> int:
    """FLOPs of one of the MLPs' matrix products, over all layers."""
    model = config.model
    layers = model.num_layers // 2 if config.family == "encdec" else model.num_layers
    return layers * tokens_per_sample(config) * 2 * model.ffn_size * model.hidden_size


def _recomputed(config: RunConfig, forward: ForwardFlops) -> int:
    """FLOPs of the forward pass that the backward pass of one sample repeats."""
    model, recompute = config.model, config.engine.recompute
    if recompute == "none":
        return 0
    repeated = forward.layers if recompute == "full" else mlp_flops(config)
    repeats_last = model.norm_placement != "pre" or model.dropout
    return repeated if repeats_last else repeated - _mlp_product_flops(config)


def unpadded_flops(config: RunConfig, lengths: Sequence[int], num_rows: int, num_predicted: int) -> StepFlops:
    """FLOPs of forward and backward pass over a BERT batch without its padding.

    Args:
        config: the run.
        lengths: tokens of each sequence; under `model.sentence_task` "match" the halves of a row are two.
        num_rows: samples.
        num_predicted: positions whose logits are computed.
    """
    sentence = forward_flops(config, predicted_positions=0).heads
    forward, repeated = num_rows * sentence + num_predicted * _masked_lm(config.model), 0
    for length, count in Counter(lengths).items():
        train = config.train.model_copy(update={"sequence_length": length})
        sequence_config = config.model_copy(update={"train": train})
        sequence = forward_flops(sequence_config)
        forward += count * sequence.layers
        repeated += count * _recomputed(sequence_config, sequence)
    return StepFlops(3 * forward, 3 * forward + repeated, sum(lengths))


def classification_flops(config: RunConfig, length: int) -> StepFlops:
    """FLOPs of forward and backward pass over one sequence of `length` tokens under a classification head.

    BERT's pooler and head cost as much as its sentence-order head; other heads are negligible. The decoder of
    `encdec` has one position.
    """
    lengths = {"sequence_length": length, "decoder_length": int(config.family == "encdec"), "global_batch": 1}
    model = config.model.model_copy(update={"sentence_task": "order"})
    config = config.model_copy(update={"model": model, "train": config.train.model_copy(update=lengths)})
    step = step_flops(config, predicted_positions=0)
    has_pooler = config.family == "bert" and not (config.finetune and config.finetune.pooling != "default")
    heads = 0 if has_pooler else 3 * forward_flops(config, predicted_positions=0).heads
    return StepFlops(step.model - heads, step.hardware - heads, step.tokens)


def published_step_flops(config: RunConfig) -> int:
    """Model FLOPs of a step as papers count them: Narayanan et al. 2021, section 3, no recomputation.

    72 B s L h^2 (1 + s/6h + V/12Lh) for GPT and BERT, whose reference code (Megatron-LM v2.5)
    computes the vocabulary's logits at every position; the structure's own count for `encdec`.
    """
    if config.family == "encdec":
        return step_flops(config).model
    model, train = config.model, config.train
    b, s, layers, h = train.global_batch, train.sequence_length, model.num_layers, model.hidden_size
    return 72 * b * s * layers * h**2 + 12 * b * s**2 * layers * h + 6 * b * s * h * model.vocab_size


def peak_budget_flops(seconds: float, devices: int, peak_flops: float) -> float:
    """FLOPs by convention 1: the most that the devices could have computed in that time."""
    return seconds * devices * peak_flops
