"""Text from a trained run: the next token again and again, greedy or sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fpm_cli.errors import UsageError
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.tasks.trained import Trained


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0


def generate(trained: Trained, prompt: str, sampling: Sampling) -> str:
    """Continue `prompt` (GPT), or fill in what follows it (encoder-decoder), up to `<eod>`.

    Raises:
        UsageError: the family does not generate, or the prompt has no token.
    """
    tokenizer = trained.corpus.tokenizer
    prompt_ids = tokenizer.encode(prompt)
    if not prompt_ids:
        raise UsageError("--prompt: it has no token; give it a word or two")
    generator = torch.Generator(trained.device).manual_seed(sampling.seed)
    with torch.inference_mode():
        if isinstance(trained.model, GPT):
            made = _continue(trained, trained.model, prompt_ids, sampling, generator)
        elif isinstance(trained.model, EncoderDecoder):
            made = _fill_in(trained, trained.model, prompt_ids, sampling, generator)
        else:
            raise UsageError(f"{trained.config.name} is a BERT: it fills masks and does not generate text")
    return tokenizer.decode(made)


def _continue(
    trained: Trained, model: GPT, prompt: list[int], sampling: Sampling, generator: torch.Generator
) -> list[int]:
    """The last `max_positions` tokens are the context of the next one."""
    window, made = trained.config.model.max_positions, list[int]()
    while len(made) < sampling.max_tokens:
        context = torch.tensor([(prompt + made)[-window:]], device=trained.device)  # (1, S)
        token = choose(model.logits(context)[0, -1], sampling, generator)
        if token == trained.corpus.tokenizer.special.eod:
            break
        made.append(token)
    return prompt + made


def _fill_in(
    trained: Trained,
    model: EncoderDecoder,
    prompt: list[int],
    sampling: Sampling,
    generator: torch.Generator,
) -> list[int]:
    """The encoder reads the prompt and one sentinel where its continuation belongs."""
    special = trained.corpus.tokenizer.special
    first, *others = special.sentinels
    assert special.bos is not None
    encoder_tokens = torch.tensor([[*prompt, first]], device=trained.device)  # (1, S_e)
    mask = torch.ones_like(encoder_tokens, dtype=torch.bool)
    memory = model.encode(encoder_tokens, mask)
    decoder, ends = [special.bos, first], {special.eod, *others}
    while len(decoder) - 2 < sampling.max_tokens:
        tokens = torch.tensor([decoder], device=trained.device)  # (1, S_d)
        token = choose(model.decode(tokens, memory, mask)[0, -1], sampling, generator)
        if token in ends:
            break
        decoder.append(token)
    return prompt + decoder[2:]


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
