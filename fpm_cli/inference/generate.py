"""Generates text from a trained run: greedy or sampled, for a batch of prompts at once.

Keys and values are cached (`fpm_cli.models.kv_cache`), so that each new token costs one position. Every row
of a batch gets the tokens that its prompt would get alone: it has its own random generator, and attends
neither to other rows nor to its own padding. The logits are equal up to rounding, which depends on the
shapes of the matrices: in float32, two tokens whose logits agree to six digits may be exchanged.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fpm_cli.accounting.inference import generation_memory
from fpm_cli.corpus.dialogues import join_segmented
from fpm_cli.errors import UsageError
from fpm_cli.inference.memory import require_memory
from fpm_cli.inference.sampling import SamplingConfig, sample_token
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.models.kv_cache import KVCache

TokenRows = Sequence[list[int]]


def generate(
    trained: TrainedModel, prompts: Sequence[str], sampling: SamplingConfig, *, cached: bool = True
) -> list[str]:
    """Continue each prompt (GPT), or fill the gap after it (encoder-decoder), up to `<eod>`.

    Args:
        trained: from `load_trained_model`.
        prompts: read together as one batch.
        sampling: applies to every prompt, including its seed.
        cached: False recomputes all positions for every token, for comparison.

    Raises:
        UsageError: the model family does not generate text, or a prompt has no token.
        OutOfMemoryError: keys, values and activations of these prompts do not fit.
    """
    tokenizer = trained.tokenizer
    rows = tokenizer.encode_batch(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise UsageError(f"--prompt {prompt!r}: it has no token; give it a word or two")
    _require_memory(trained, rows, sampling)
    with torch.inference_mode():
        if isinstance(trained.model, GPT):
            stop_tokens = {tokenizer.special.eod}
            next_logits = _GPTNextLogits(trained.model, trained, sampling.max_tokens, cached)
            new_tokens = _decode_until(next_logits, rows, stop_tokens.__contains__, sampling, trained)
        elif isinstance(trained.model, EncoderDecoder):
            new_tokens = _decode_from_encoder(trained.model, trained, rows, sampling, cached)
        else:
            raise UsageError(
                f"{trained.config.name} is a BERT model, which predicts masked tokens and generates no text"
            )
    return [tokenizer.decode(row + new) for row, new in zip(rows, new_tokens, strict=True)]


def generate_reply(trained: TrainedModel, turns: Sequence[str], sampling: SamplingConfig) -> str:
    """The next turn of a dialogue, after the turns so far.

    A dialogue is one document with one turn per line, as `fpm build-corpus stc` writes it
    (`fpm_cli.corpus.dialogues.read_stc`), so the reply ends at a newline or at `<eod>`.

    Raises:
        UsageError: the run is not a GPT, or a turn is empty.
    """
    tokenizer = trained.tokenizer
    lines = [join_segmented(turn) for turn in turns]
    if not isinstance(trained.model, GPT):
        raise UsageError(f"--dialogue: {trained.config.name} is not a GPT; train CPM-X-EVA on dialogues")
    if not all(lines):
        raise UsageError("--dialogue: a turn is empty")
    rows = [tokenizer.encode("".join(f"{line}\n" for line in lines))]

    def is_stop(token: int) -> bool:
        return token == tokenizer.special.eod or "\n" in tokenizer.decode([token])

    _require_memory(trained, rows, sampling)
    with torch.inference_mode():
        next_logits = _GPTNextLogits(trained.model, trained, sampling.max_tokens, cached=True)
        return tokenizer.decode(_decode_until(next_logits, rows, is_stop, sampling, trained)[0])


def _require_memory(trained: TrainedModel, rows: TokenRows, sampling: SamplingConfig) -> None:
    parameters = list(trained.model.parameters())
    needed = generation_memory(
        trained.config,
        sum(parameter.numel() for parameter in parameters),
        parameters[0].element_size(),
        batch=len(rows),
        prompt_tokens=max(map(len, rows)),
        max_tokens=sampling.max_tokens,
    )
    mend = "give fewer or shorter prompts, or a smaller --max-tokens"
    require_memory("generating text", needed, trained.device, mend, loaded=True)


def continue_rows(
    trained: TrainedModel,
    rows: TokenRows,
    sampling: SamplingConfig,
    is_finished: Callable[[list[int]], bool],
) -> list[list[int]]:
    """The new tokens of each row of a GPT, up to the first after which `is_finished` of them holds.

    Args:
        trained: a GPT.
        rows: token ids, at least one in each; read together as one batch.
        sampling: applies to every row.
        is_finished: whether the new tokens of a row, the last of them included, are all that is wanted.
    """
    assert isinstance(trained.model, GPT)
    with torch.inference_mode():
        next_logits = _GPTNextLogits(trained.model, trained, sampling.max_tokens, cached=True)
        return _decode(next_logits, rows, is_finished, sampling, trained)


def _decode_until(
    next_logits: Callable[[TokenRows], Tensor],
    rows: TokenRows,
    is_stop: Callable[[int], bool],
    sampling: SamplingConfig,
    trained: TrainedModel,
) -> list[list[int]]:
    """The new tokens of each row, without the stop token."""
    new_tokens = _decode(next_logits, rows, lambda new: is_stop(new[-1]), sampling, trained)
    return [new[:-1] if is_stop(new[-1]) else new for new in new_tokens]


def _decode(
    next_logits: Callable[[TokenRows], Tensor],
    rows: TokenRows,
    is_finished: Callable[[list[int]], bool],
    sampling: SamplingConfig,
    trained: TrainedModel,
) -> list[list[int]]:
    """The new tokens of each row; `next_logits` maps the rows to logits (B, V).

    A network may have more embeddings than its tokenizer has entries (T5 v1.1 has 32,128 for 32,100): only
    ids of the tokenizer are generated.
    """
    vocab_size = trained.tokenizer.vocab_size
    rows, new_tokens = [list(row) for row in rows], [list[int]() for _ in rows]
    generators = [torch.Generator(trained.device).manual_seed(sampling.seed) for _ in rows]
    unfinished, num_new = set(range(len(rows))), 0
    while unfinished and num_new < sampling.max_tokens:
        logits = next_logits(rows)[:, :vocab_size]
        num_new += 1
        for index, row in enumerate(rows):  # finished rows stay in the batch
            row.append(sample_token(logits[index], sampling, generators[index]))
            if index in unfinished:
                new_tokens[index].append(row[-1])
                if is_finished(new_tokens[index]):
                    unfinished.discard(index)
    return new_tokens


class _GPTNextLogits:
    """Logits of the token after each row.

    A row longer than `max_positions` is cut to its last `max_positions` tokens. Every position then moves
    with each new token, so that nothing can be cached: the cost per token is constant, but high.
    """

    def __init__(self, model: GPT, trained: TrainedModel, max_tokens: int, cached: bool):
        self.model, self.device = model, trained.device
        self.window, self.max_tokens, self.cached = trained.config.model.max_positions, max_tokens, cached
        self.cache: KVCache | None = None

    def __call__(self, rows: TokenRows) -> Tensor:
        """Rows of token ids -> (B, V); each row is that of the previous call and one token more."""
        longest = max(map(len, rows))
        if self.cache is not None and self.cached and longest <= self.window:
            new = [row[-1:] for row in rows]
        else:
            width = min(longest, self.window)
            padding = [width - min(len(row), width) for row in rows]
            new = [[0] * pad + row[-width:] for pad, row in zip(padding, rows, strict=True)]
            capacity = min(self.window, width + self.max_tokens) if self.cached else width
            self.cache = KVCache(torch.tensor(padding, device=self.device), capacity)
        return self.model.next_logits(torch.tensor(new, device=self.device), self.cache)


def _decode_from_encoder(
    model: EncoderDecoder, trained: TrainedModel, prompts: TokenRows, sampling: SamplingConfig, cached: bool
) -> list[list[int]]:
    """The encoder reads each prompt and a sentinel where its continuation belongs; the decoder writes it."""
    special, device = trained.tokenizer.special, trained.device
    if special.bos is None or not special.sentinels:
        raise UsageError(f"{trained.config.name}: its tokenizer has no <s> and no sentinels to fill in")
    first, *other_sentinels = special.sentinels
    longest = max(map(len, prompts)) + 1
    padding = [longest - len(prompt) - 1 for prompt in prompts]
    tokens = [[*prompt, first, *[0] * pad] for prompt, pad in zip(prompts, padding, strict=True)]
    mask = None  # (B, S_e)
    if any(padding):
        mask = (torch.arange(longest) < longest - torch.tensor(padding)[:, None]).to(device)
    memory = model.encode(torch.tensor(tokens, device=device), mask)
    no_padding = torch.zeros(len(prompts), dtype=torch.long, device=device)
    cache = KVCache(no_padding, 2 + sampling.max_tokens)

    def next_logits(rows: TokenRows) -> Tensor:
        nonlocal cache
        if not cached:
            cache = KVCache(no_padding, 2 + sampling.max_tokens)
        new = torch.tensor([row[cache.length :] for row in rows], device=device)
        return model.next_logits(new, memory, mask, cache)

    stop_tokens = {special.eod, *other_sentinels}
    decoder_rows = [[special.bos, first]] * len(prompts)
    return _decode_until(next_logits, decoder_rows, stop_tokens.__contains__, sampling, trained)
