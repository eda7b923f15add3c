"""Attention cases for the CUDA sources: inputs, a reference written out, the call of the launchers."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fpm_cli.kernels.common.philox import dropout_mask
from tests.kernels.cuda.emulated import TYPE_NUMBERS, Emulator, structure_of, unwritten

ARGUMENTS = structure_of("attention/cuda.h", "AttentionArguments")
GRADIENTS = ("query", "key", "value", "bias")


@dataclass
class Case:
    """Inputs of one call: (batch, positions, heads, head size), packed (tokens, heads, head size)."""

    query: Tensor
    key: Tensor
    value: Tensor
    grad_out: Tensor
    bias: Tensor | None = None  # (1 or batch, heads, queries, keys)
    key_mask: Tensor | None = None  # (batch, keys) bool
    documents: Tensor | None = None  # (batch, queries) int64
    lengths: tuple[int, ...] = ()  # packed if given
    causal: bool = False
    scale: float = 0.3
    dropout: float = 0.0
    seed: int = 2**33 + 7
    stream: int = 17
    results: dict[str, Tensor] = field(default_factory=dict)


def make_case(
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    head_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    bias_batches: int = 0,
    masked: bool = False,
    documents: bool = False,
    lengths: tuple[int, ...] = (),
    views: bool = False,
    causal: bool = False,
    dropout: float = 0.0,
) -> Case:
    """Random inputs; with `views`, query, key and value are views of one packed projection."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    if lengths:
        query, key, value = normal(sum(lengths), 3, heads, head_size).unbind(1)
        grad_out = normal(sum(lengths), heads, head_size)
    elif views:
        query, key, value = normal(batch, queries, 3, heads, head_size).unbind(2)
        grad_out = normal(batch, queries, heads, head_size)
    else:
        query, key, value = (normal(batch, n, heads, head_size) for n in (queries, keys, keys))
        grad_out = normal(batch, queries, heads, head_size)
    case = Case(query, key, value, grad_out, lengths=lengths, causal=causal, dropout=dropout)
    if bias_batches:
        case.bias = normal(bias_batches, heads, queries, keys)
    if masked:
        case.key_mask = torch.rand(batch, keys, generator=generator) < 0.7
        case.key_mask[0] = False  # every key of one sequence is masked
    if documents:
        starts = torch.rand(batch, queries, generator=generator) < 0.1
        case.documents = starts.cumsum(1)
    return case


def visible(case: Case, batch: int, queries: int, keys: int) -> Tensor:
    """Which key each query attends to, (batch, 1, queries, keys)."""
    mask = torch.ones(batch, 1, queries, keys, dtype=torch.bool)
    if case.causal:
        mask &= torch.ones(queries, keys).tril(keys - queries).bool()
    if case.key_mask is not None:
        mask &= case.key_mask[:, None, None]
    if case.documents is not None:
        mask &= (case.documents[:, :, None] == case.documents[:, None])[:, None]
    return mask


def kept(case: Case, rows: Tensor, keys: int, longest: int) -> Tensor:
    """Which probabilities dropout keeps: `rows` (...) are row numbers; (..., keys)."""
    width = (longest + 3) // 4 * 4
    elements = rows[..., None] * width + torch.arange(width)
    return dropout_mask(elements, case.dropout, case.seed, case.stream)[..., :keys]


def composition(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mask: Tensor, keep: Tensor, case: Case
) -> Tensor:
    """Attention in plain PyTorch, in the precision of its inputs: (batch, heads, positions, head size)."""
    scores = query @ key.transpose(-1, -2) * case.scale
    if bias is not None:
        scores = scores + bias
    mask = mask & (scores != -torch.inf)
    empty = ~mask.any(-1, keepdim=True)
    scores = scores.masked_fill(~mask, -torch.inf).masked_fill(empty, 0.0)
    probabilities = scores.softmax(-1).masked_fill(empty, 0.0)
    return (probabilities * keep.to(probabilities) / (1 - case.dropout)) @ value


def expected(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and gradients by autograd through `composition` in `dtype`."""
    leaves = {
        name: None if (x := getattr(case, name)) is None else x.detach().clone().to(dtype).requires_grad_()
        for name in GRADIENTS
    }
    query, key, value, bias = leaves.values()
    heads = case.query.shape[-2]
    if case.lengths:
        pieces, start, total = [], 0, sum(case.lengths)
        for length in case.lengths:
            rows = torch.arange(heads)[:, None] * total + start + torch.arange(length)
            part = slice(start, start + length)
            mixed = composition(
                *(x[part].transpose(0, 1) for x in (query, key, value)),
                None,
                visible(case, 1, length, length)[0],
                kept(case, rows, length, max(case.lengths)),
                case,
            )
            pieces.append(mixed.transpose(0, 1))
            start += length
        out = torch.cat(pieces)
    else:
        batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
        rows = torch.arange(batch * heads * queries).view(batch, heads, queries)
        mask = visible(case, batch, queries, keys)
        keep = kept(case, rows, keys, keys)
        mixed = composition(*(x.transpose(1, 2) for x in (query, key, value)), bias, mask, keep, case)
        out = mixed.transpose(1, 2)
    out.backward(case.grad_out.to(dtype))
    gradients = {f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf is not None}
    return {"out": out.detach(), **gradients}


def computed(
    emulator: Emulator,
    case: Case,
    *,
    grad_bias: Tensor | None = None,
    order: str = "forward",
    shift: int = 0,
) -> dict[str, Tensor]:
    """Output, log-sum-exp and gradients by the CUDA kernels; that of the bias is added to `grad_bias`."""
    packed = bool(case.lengths)
    heads, head_size = case.query.shape[-2:]
    batch = len(case.lengths) if packed else case.query.shape[0]
    queries, keys = (0, 0) if packed else (case.query.shape[1], case.key.shape[1])
    tokens = sum(case.lengths)

    def strides(tensor: Tensor) -> tuple[int, int, int]:
        return (0, *tensor.stride()[:2]) if packed else tensor.stride()[:3]

    tensors = {
        "query": case.query,
        "key": case.key,
        "value": case.value,
        "bias": case.bias,
        "key_mask": case.key_mask,
        "documents": case.documents,
        "cu_seqlens": torch.tensor([0, *case.lengths]).cumsum(0).int() if packed else None,
        "out": unwritten(case.grad_out),
        "log_sum_exp": torch.full((heads, tokens) if packed else (batch, heads, queries), torch.nan),
    }
    arguments = ARGUMENTS(
        type=TYPE_NUMBERS[case.query.dtype],
        batch=batch,
        heads=heads,
        queries=queries,
        keys=keys,
        head_size=head_size,
        tokens=tokens,
        scale=case.scale,
        dropout=case.dropout,
        seed=case.seed,
        stream=case.stream,
        causal=case.causal,
        bias_batches=0 if case.bias is None else case.bias.shape[0],
    )
    if case.bias is not None:
        batch_stride = case.bias.stride(0) if case.bias.shape[0] > 1 else 0
        arguments.bias_strides = (batch_stride, *case.bias.stride()[1:3])
    for name in ("query", "key", "value", "out"):
        setattr(arguments, f"{name}_strides", strides(tensors[name]))
    results = emulator.call("fpm_cuda_attention", arguments, tensors, order=order, shift=shift)

    tensors |= {"out": results["out"], "log_sum_exp": results["log_sum_exp"], "grad_out": case.grad_out}
    tensors |= {f"grad_{name}": unwritten(getattr(case, name)) for name in ("query", "key", "value")}
    tensors["delta"] = unwritten(results["log_sum_exp"])
    if case.bias is not None:
        tensors["grad_bias"] = torch.zeros_like(case.bias).contiguous() if grad_bias is None else grad_bias
    for name in ("grad_out", "grad_query", "grad_key", "grad_value"):
        setattr(arguments, f"{name}_strides", strides(tensors[name]))
    results |= emulator.call("fpm_cuda_attention_backward", arguments, tensors, order=order, shift=shift)
    names = ["out", "log_sum_exp", *(f"grad_{name}" for name in GRADIENTS)]
    return {name: results[name] for name in names if name in results}
