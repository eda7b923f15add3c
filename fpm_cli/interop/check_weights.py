"""Checks that a checkpoint of transformers holds all weights of its architecture and no others."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.interop.bert import HEADS
from fpm_cli.interop.weight_mapping import Architecture, StateDict, names_of

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Tensors in a checkpoint that are not parameters of the architecture, each with its reason.
_BUFFERS = re.compile(
    r"(.*\.)?("
    r"attn\.(bias|masked_bias)"  # GPT-2's causal mask
    r"|embeddings\.(position_ids|token_type_ids)"  # BERT's constant indices
    r"|layer\.1\.EncDecAttention\.relative_attention_bias\.weight"  # T5's, which no version of it reads
    r")"
)
# Copies of a parameter under a second name, which must have its values.
_TIED = {
    "lm_head.weight": "transformer.wte.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}


def check_depth(config: ModelConfig, weights: Mapping[str, Tensor], source: Path) -> None:
    """Raises DamagedError: config.json claims more layers than there are tensors."""
    if config.num_layers > len(weights):
        raise DamagedError(
            f"{source}: config.json says {config.num_layers:,} layers, but there are {len(weights):,} tensors"
        )


def refuse_other_tensors(architecture: Architecture, state: Mapping[str, Tensor], source: Path) -> None:
    """Refuse a checkpoint with weights that would be lost, or that are no floating-point numbers.

    Raises:
        UsageError: a parameter is of an integer or 8-bit type, as quantised weights are; or a tensor belongs
            neither to the architecture nor to the known buffers.
        DamagedError: a tied copy of a parameter has other values.
    """
    known = {
        name: theirs
        for mapping in architecture.mappings
        for theirs in mapping.theirs
        for name in names_of(architecture, theirs)
    }
    others = [name for name in state if name not in known and not _BUFFERS.fullmatch(name)]
    for name in sorted(state.keys() & known.keys()):
        if state[name].dtype not in _FLOATS:
            raise UsageError(
                f"{source}: {name} is {str(state[name].dtype).removeprefix('torch.')}: the weights are "
                "quantised; fpm imports float16, bfloat16, float32 and float64 only"
            )
    unknown = [name for name in others if not _is_tied_copy(name, architecture, state, source)]
    if unknown:
        raise UsageError(
            f"{source}: config.json does not describe {len(unknown)} of the tensors, which would be lost: "
            f"{', '.join(sorted(unknown)[:3])}{', ...' if len(unknown) > 3 else ''}"
        )


def _is_tied_copy(name: str, architecture: Architecture, state: Mapping[str, Tensor], source: Path) -> bool:
    if name not in _TIED:
        return False
    original = next((each for each in names_of(architecture, _TIED[name]) if each in state), None)
    if original is None:
        return False
    if not state[name].equal(state[original]):
        raise DamagedError(f"{source}: {name} is tied to {original} and has other values")
    return True


def untrained_heads(
    skeleton: nn.Module, weights: StateDict, architecture: Architecture, source: Path
) -> tuple[str, ...]:
    """The BERT heads that the checkpoint lacks as a whole; they keep their initial values.

    Args:
        skeleton: the network on the `meta` device, since config.json may claim any size.
        weights: under fpm's names.

    Raises:
        DamagedError: another parameter is missing, or one has another shape than config.json says.
    """
    expected = {mapping.ours for mapping in architecture.mappings}
    untrained = []
    for head in HEADS:
        names = {name for name in expected if name.startswith(f"{head}.")}
        if names and not names & weights.keys():
            untrained.append(head)
            expected -= names
    if missing := sorted(expected - weights.keys()):
        raise DamagedError(
            f"{source}: tensors are missing: {', '.join(missing[:3])} ({len(missing)} in all, fpm's names)"
        )
    shapes = {name: parameter.shape for name, parameter in skeleton.named_parameters()}
    for name, weight in weights.items():
        if weight.shape != shapes[name]:
            raise DamagedError(
                f"{source}: the weights do not fit config.json: {name} is {tuple(weight.shape)}, "
                f"not {tuple(shapes[name])}"
            )
    return tuple(untrained)
