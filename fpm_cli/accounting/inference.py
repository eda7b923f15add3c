"""Bytes that using a trained run takes: weights, the cache of keys and values, activations, logits.

Without gradients nothing is kept but the hidden states: the peak of activations is that of one layer.
"""

from dataclasses import dataclass

from fpm_cli.accounting.flops import masked_positions
from fpm_cli.config.schema import ModelConfig, RunConfig

FLOAT32 = 4


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes on one device, the process itself apart."""

    weights: int
    cache: int = 0  # keys and values of the tokens so far
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        """Everything that has to fit beside the process."""
        return self.weights + self.cache + self.activations + self.logits


def generation_memory(
    config: RunConfig, num_parameters: int, e: int, *, batch: int, prompt_tokens: int, max_tokens: int
) -> InferenceMemory:
    """Of continuing `batch` prompts, the longest of `prompt_tokens`, by up to `max_tokens`.

    Args:
        config: the run.
        num_parameters: of the network.
        e: bytes of a weight.
        batch, prompt_tokens, max_tokens: of the request.
    """
    model = config.model
    a, layers = model.attention_size, model.num_layers
    if config.family == "encdec":
        read = prompt_tokens + 1  # the sentinel; the memory's keys and values are kept too
        cached = (2 + max_tokens + read) * layers // 2
    else:
        read = min(prompt_tokens, model.max_positions)
        cached = min(model.max_positions, read + max_tokens) * layers
    return InferenceMemory(
        weights=num_parameters * e,
        cache=batch * cached * 2 * a * e,
        activations=layer_bytes(model, config.family == "encdec", batch * read, e) + batch * read * read,
        logits=batch * model.vocab_size * (e + FLOAT32),
    )


def scoring_memory(config: RunConfig, num_parameters: int, e: int) -> InferenceMemory:
    """Of the language-model loss of one micro-batch; arguments as for `generation_memory`."""
    train, model = config.train, config.model
    tokens = train.micro_batch * max(train.sequence_length, train.decoder_length)
    predicted = train.micro_batch * (train.decoder_length or train.sequence_length)
    if config.family == "bert":
        predicted = train.micro_batch * masked_positions(train)
    return InferenceMemory(
        weights=num_parameters * e,
        activations=layer_bytes(model, config.family == "encdec", tokens, e),
        logits=predicted * model.vocab_size * (e + 2 * FLOAT32),  # in float32 too, and their logarithms
    )


def prediction_memory(config: RunConfig, num_parameters: int, e: int, tokens: int) -> InferenceMemory:
    """Of classifying a batch of `tokens` tokens; arguments as for `generation_memory`."""
    activations = layer_bytes(config.model, config.family == "encdec", tokens, e)
    return InferenceMemory(num_parameters * e, activations=activations)


def export_memory(num_parameters: int) -> InferenceMemory:
    """Of an export: the network in float32, beside it first the written copy, then transformers' network."""
    return InferenceMemory(weights=2 * FLOAT32 * num_parameters)


def inference_bytes(config: RunConfig, num_parameters: int, e: int) -> dict[str, int]:
    """What using the trained run will take on one device, and an export on the host, in bytes.

    `generate` continues one prompt up to the longest that the network reads; arguments as for
    `generation_memory`.
    """
    longest = config.model.max_positions or config.train.sequence_length
    planned = {
        "evaluate": scoring_memory(config, num_parameters, e).total,
        "export_on_host": export_memory(num_parameters).total,
    }
    if config.family != "bert":
        text = generation_memory(
            config, num_parameters, e, batch=1, prompt_tokens=longest, max_tokens=longest
        )
        planned = {"generate": text.total, **planned}
    return planned


def layer_bytes(model: ModelConfig, gated: bool, tokens: int, e: int) -> int:
    """What is alive at the widest point of a layer: the residual stream, and attention or the MLP."""
    attention = 4 * model.attention_size  # query, key and value, and their mixture
    mlp = (4 if gated else 2) * model.ffn_size
    return tokens * e * (3 * model.hidden_size + max(attention, mlp))
