"""Text from a trained run: the next token again and again, greedy or sampled, for many prompts at once.

What was read is kept (`fpm_cli.models.kv_cache`), so that a new token costs one position. A row of a
batch gets the tokens that its prompt alone would get: it has a random generator of its own, and never
sees another row's tokens or its own padding. The logits are equal up to rounding, which depends on the
shapes that are multiplied: in float32 two tokens that are as likely as each other to six digits may
change places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fpm_cli.corpus.readers import join_segmented
from fpm_cli.errors import UsageError
from fpm_cli.inference.trained import Trained
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.models.kv_cache import KVCache

Rows = Sequence[list[int]]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0


def generate(
    trained: Trained, prompts: Sequence[str], sampling: Sampling, *, cached: bool = True
) -> list[str]:
    """Continue each prompt (GPT), or fill in what follows it (encoder-decoder), up to `<eod>`.

    Args:
        trained: from `load_trained`.
        prompts: read together, as one batch.
        sampling: the same for every prompt, its seed too.
        cached: False reads everything again for every token, to compare with.

    Raises:
        UsageError: the family does not generate, or a prompt has no token.
    """
    tokenizer = trained.tokenizer
    rows = tokenizer.encode_batch(prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise UsageError(f"--prompt {prompt!r}: it has no token; give it a word or two")
    with torch.inference_mode():
        if isinstance(trained.model, GPT):
            ends = {tokenizer.special.eod}
            read = _GPTReader(trained.model, trained, sampling.max_tokens, cached)
            made = _write(read, rows, ends.__contains__, sampling, trained.device)
        elif isinstance(trained.model, EncoderDecoder):
            made = _fill_in(trained.model, trained, rows, sampling, cached)
        else:
            raise UsageError(f"{trained.config.name} is a BERT: it fills masks and does not generate text")
    return [tokenizer.decode(row + new) for row, new in zip(rows, made, strict=True)]


def reply(trained: Trained, turns: Sequence[str], sampling: Sampling) -> str:
    """The next turn of a dialogue, after the turns so far.

    A dialogue is one document with a turn a line, as `fpm build-corpus stc` makes it
    (`fpm_cli.corpus.readers.read_stc`), so the reply ends with its line or with `<eod>`.

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

    def ends(token: int) -> bool:
        return token == tokenizer.special.eod or "\n" in tokenizer.decode([token])

    with torch.inference_mode():
        read = _GPTReader(trained.model, trained, sampling.max_tokens, cached=True)
        return tokenizer.decode(_write(read, rows, ends, sampling, trained.device)[0])


def _write(
    next_logits: Callable[[Rows], Tensor],
    rows: Rows,
    ends: Callable[[int], bool],
    sampling: Sampling,
    device: torch.device,
) -> list[list[int]]:
    """Each row's new tokens up to the first that ends it; `next_logits` turns rows into (B, V)."""
    rows, starts = [list(row) for row in rows], [len(row) for row in rows]
    generators = [torch.Generator(device).manual_seed(sampling.seed) for _ in rows]
    open_rows = set(range(len(rows)))
    while open_rows and len(rows[0]) - starts[0] < sampling.max_tokens:
        logits = next_logits(rows)
        for index, row in enumerate(rows):  # a finished row is written on, and cut below
            row.append(choose(logits[index], sampling, generators[index]))
            if ends(row[-1]):
                open_rows.discard(index)
    return [_until(row[start:], ends) for row, start in zip(rows, starts, strict=True)]


def _until(tokens: list[int], ends: Callable[[int], bool]) -> list[int]:
    return next((tokens[:index] for index, token in enumerate(tokens) if ends(token)), tokens)


class _GPTReader:
    """Logits after each row. Past `max_positions` a row's last `max_positions` tokens are its context:
    every position moves with every token, so all is read anew, at a cost a token that stays the same.
    """

    def __init__(self, model: GPT, trained: Trained, max_tokens: int, cached: bool):
        self.model, self.device = model, trained.device
        self.window, self.max_tokens, self.cached = trained.config.model.max_positions, max_tokens, cached
        self.cache: KVCache | None = None

    def __call__(self, rows: Rows) -> Tensor:
        """Rows of token ids -> (B, V); the rows are those of the last call, each a token longer."""
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


def _fill_in(
    model: EncoderDecoder, trained: Trained, prompts: Rows, sampling: Sampling, cached: bool
) -> list[list[int]]:
    """The encoder reads each prompt and one sentinel where its continuation belongs."""
    special, device = trained.tokenizer.special, trained.device
    if special.bos is None or not special.sentinels:
        raise UsageError(f"{trained.config.name}: its tokenizer has no <s> and no sentinels to fill in")
    first, *others = special.sentinels
    longest = max(map(len, prompts)) + 1
    padding = [longest - len(prompt) - 1 for prompt in prompts]
    tokens = [[*prompt, first, *[0] * pad] for prompt, pad in zip(prompts, padding, strict=True)]
    mask = torch.arange(longest) < longest - torch.tensor(padding)[:, None]  # (B, S_e)
    mask = mask.to(device)
    memory = model.encode(torch.tensor(tokens, device=device), mask)
    none = torch.zeros(len(prompts), dtype=torch.long, device=device)
    cache = KVCache(none, 2 + sampling.max_tokens)

    def next_logits(rows: Rows) -> Tensor:
        nonlocal cache
        if not cached:
            cache = KVCache(none, 2 + sampling.max_tokens)
        new = torch.tensor([row[cache.length :] for row in rows], device=device)
        return model.next_logits(new, memory, mask, cache)

    ends = {special.eod, *others}
    return _write(next_logits, [[special.bos, first]] * len(prompts), ends.__contains__, sampling, device)


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token from logits (V,): the largest at temperature 0, else drawn from the kept ones.

    Top-k keeps the k largest; top-p then the fewest whose probabilities reach p.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    values, ids = (logits.float() / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        values, ids = values[: sampling.top_k], ids[: sampling.top_k]
    shares = values.softmax(-1)
    before = shares.cumsum(-1) - shares  # probability of everything likelier
    shares = torch.where(before < sampling.top_p, shares, 0.0)
    return int(ids[torch.multinomial(shares, 1, generator=generator)])
