"""Language-model scoring: loss, perplexity, bits per byte and per character, and the unigram level."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fpm_cli.corpus.manifest import Split
from fpm_cli.engine.batches import load_batch
from fpm_cli.errors import UsageError
from fpm_cli.inference.trained import Trained
from fpm_cli.objectives.build import build_samples


@dataclass(frozen=True)
class LanguageModelScore:
    """Scores over one split. Nats per prediction, unless named otherwise.

    `unigram_entropy` is the entropy of the predicted tokens' own frequencies in this very text: what
    the best model without context would lose here. A trained model must be below it. For bert it is
    that of the whole text, each of whose tokens is as likely as any other to be masked: the few that
    are would give too low a figure.
    """

    split: str
    num_samples: int
    num_predictions: int
    loss: float  # next token (gpt), masked word (bert), target token (encdec)
    perplexity: float
    unigram_entropy: float
    sentence_order_loss: float | None  # bert only
    sentence_match_loss: float | None  # bert only; among `train.micro_batch` halves
    bits_per_byte: float | None  # gpt only: the others do not predict every token once
    bits_per_char: float | None
    tokens_per_char: float


def score_language_model(
    trained: Trained, *, split: Split = "validation", max_samples: int | None = None
) -> LanguageModelScore:
    """Score a run on its corpus's `split`: every sample once, or the first `max_samples`.

    Masks and corruptions are those of (seed, sample index), the same at every call.

    Raises:
        UsageError: the weights were imported without the head that predicts words.
    """
    config = trained.config
    if "mlm_head" in trained.untrained:
        raise UsageError(f"{config.name} was imported without a masked-word head: it predicts no words")
    samples = build_samples(config, trained.corpus, split)
    num_samples = min(len(samples), max_samples or len(samples))
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    frequencies = torch.zeros(config.model.vocab_size, dtype=torch.float64)
    with torch.inference_mode():
        for start in range(0, num_samples, config.train.micro_batch):
            stop = min(start + config.train.micro_batch, num_samples)
            batch = load_batch(samples, range(start, stop), trained.device)
            for name, total in trained.model(batch).items():
                sums[name] = sums.get(name, 0.0) + float(total)
            for name, count in trained.model.num_predictions(batch).items():  # type: ignore[operator]
                counts[name] = counts.get(name, 0.0) + float(count)
            predicted = batch["labels"][batch["loss_mask"] > 0].cpu()
            frequencies += torch.bincount(predicted, minlength=len(frequencies))
    if config.family == "bert":
        text = torch.from_numpy(trained.corpus.split(split).tokens.astype("int64"))
        frequencies = torch.bincount(text, minlength=len(frequencies))
    words = next(iter(sums))  # every family's first loss is over tokens
    means = {name: total / counts[name] for name, total in sums.items()}
    loss = means[words]
    about = trained.corpus.manifest.splits[split]
    every_token = config.family == "gpt"
    bits = loss / math.log(2) * about.tokens  # of the whole split, at this loss per token
    return LanguageModelScore(
        split=split,
        num_samples=num_samples,
        num_predictions=round(counts[words]),
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        unigram_entropy=entropy(frequencies),
        sentence_order_loss=means.get("sentence_order"),
        sentence_match_loss=means.get("sentence_match"),
        bits_per_byte=bits / about.text_bytes if every_token else None,
        bits_per_char=bits / about.text_characters if every_token else None,
        tokens_per_char=about.tokens / about.text_characters,
    )


def entropy(frequencies: Tensor) -> float:
    """Entropy in nats of counts (V,)."""
    shares = frequencies[frequencies > 0].double() / frequencies.sum()
    return float(-(shares * shares.log()).sum())
