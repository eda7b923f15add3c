"""Scores a run as a language model: loss, perplexity, bits per byte, and the unigram entropy beside them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.manifest import Split
from fpm_cli.engine.batches import load_batch
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.objectives.base import Samples
from fpm_cli.objectives.build import build_samples
from fpm_cli.progress import Report, ignore_report
from fpm_cli.tokenization.lost_text import LostText, lost_bits


@dataclass(frozen=True)
class LanguageModelScore:
    """Scores over one split, in nats per prediction unless the name says otherwise.

    `unigram_entropy` is the entropy of the predicted tokens' frequencies in this text: the loss of the best
    model without context, which a trained model must be below. For bert the frequencies are those of the
    whole text, since every token is equally likely to be masked, and the few masked ones would bias it.

    Bits per byte and per character are those of the whole text: characters that the tokenizer maps to
    `<unk>` or changes are charged as `fpm_cli.tokenization.lost_text.lost_bits` codes them.
    """

    split: str
    num_samples: int
    num_predictions: int
    loss: float  # next token (gpt), masked word (bert), target token (encdec)
    perplexity: float
    unigram_entropy: float
    sentence_order_loss: float | None  # bert only
    sentence_match_loss: float | None  # bert only; among `train.micro_batch` halves
    bits_per_byte: float | None  # gpt only: the other families do not predict every token once
    bits_per_char: float | None
    tokens_per_char: float
    lost_bits_per_byte: float | None  # the part of bits_per_byte for what the tokens do not determine
    unknown_tokens: float  # fractions of all tokens and bytes of the split
    unknown_bytes: float
    changed_bytes: float  # by the tokenizer's normalisation
    lost_text_is_estimated: bool


def score_language_model(
    trained: TrainedModel,
    *,
    split: Split = "validation",
    max_samples: int | None = None,
    report: Report = ignore_report,
) -> LanguageModelScore:
    """Score a run on a split of its corpus: every sample once, or the first `max_samples`.

    `report` is called with the number of scored samples and their total after each micro-batch.
    Masking and span corruption depend on (seed, sample index) alone, so that every call gives the same.

    Raises:
        UsageError: the weights were imported without the head that predicts words.
    """
    config = trained.config
    if "mlm_head" in trained.untrained_heads:
        raise UsageError(
            f"{config.name} was imported without a masked-token head, so it cannot predict tokens"
        )
    samples = _build_samples(trained, split)
    num_samples = min(len(samples), max_samples or len(samples))
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    frequencies = torch.zeros(config.model.vocab_size, dtype=torch.float64)
    report(0, num_samples)
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
            report(stop, num_samples)
    if config.family == "bert":
        text = torch.from_numpy(trained.corpus.split(split).tokens.astype("int64"))
        frequencies = torch.bincount(text, minlength=len(frequencies))
    token_loss = next(iter(sums))  # every family's first loss is the one over tokens
    means = {name: total / counts[name] for name, total in sums.items()}
    loss = means[token_loss]
    facts = trained.corpus.manifest.splits[split]
    every_token = config.family == "gpt"
    lost, is_estimated = _lost_text(trained.corpus, split)
    bits_of_lost = lost_bits(lost, facts.text_characters)
    bits = loss / math.log(2) * facts.tokens + bits_of_lost  # of the whole split, at this loss per token
    return LanguageModelScore(
        split=split,
        num_samples=num_samples,
        num_predictions=round(counts[token_loss]),
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        unigram_entropy=entropy(frequencies),
        sentence_order_loss=means.get("sentence_order"),
        sentence_match_loss=means.get("sentence_match"),
        bits_per_byte=bits / facts.text_bytes if every_token else None,
        bits_per_char=bits / facts.text_characters if every_token else None,
        tokens_per_char=facts.tokens / facts.text_characters,
        lost_bits_per_byte=bits_of_lost / facts.text_bytes if every_token else None,
        unknown_tokens=lost.unknown_tokens / facts.tokens,
        unknown_bytes=lost.unknown_bytes / facts.text_bytes,
        changed_bytes=lost.changed_bytes / facts.text_bytes,
        lost_text_is_estimated=is_estimated,
    )


def _lost_text(corpus: Corpus, split: Split) -> tuple[LostText, bool]:
    """What the tokens of a split do not determine, and whether that is an estimate.

    Corpora of earlier versions did not measure it: there, everything is taken for unknown that the decoded
    tokens have less than the text.
    """
    facts, unknown = corpus.manifest.splits[split], corpus.tokenizer.special.unk
    if facts.lost is not None:
        return facts.lost, False
    tokens = corpus.split(split).tokens
    is_unknown = tokens == (-1 if unknown is None else unknown)
    ended = {None, unknown, corpus.tokenizer.special.eod}
    text = corpus.tokenizer.decode(token for token in tokens.tolist() if token not in ended)
    unknown_tokens = int(is_unknown.sum())
    return LostText(
        unknown_tokens=unknown_tokens,
        unknown_characters=max(unknown_tokens, facts.text_characters - len(text)),
        unknown_bytes=max(unknown_tokens, facts.text_bytes - len(text.encode())),
    ), True


def _build_samples(trained: TrainedModel, split: Split) -> Samples:
    tokenizer, config = trained.corpus.manifest.tokenizer, trained.config
    if tokenizer.kind != config.tokenizer or tokenizer.vocab_size > config.model.vocab_size:
        raise DamagedError(
            f"{trained.corpus.path} was made with a {tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} "
            f"entries, and {config.name} reads {config.tokenizer} with up to {config.model.vocab_size:,}; "
            "--corpus takes a corpus that was made with the run's tokenizer"
        )
    return build_samples(trained.config, trained.corpus, split, allow_smaller_vocabulary=True)


def entropy(frequencies: Tensor) -> float:
    """Entropy in nats of counts (V,)."""
    shares = frequencies[frequencies > 0].double() / frequencies.sum()
    return float(-(shares * shares.log()).sum())
