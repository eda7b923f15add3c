"""From a configuration and a corpus to the samples of its family's objective."""

from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.manifest import Split
from fpm_cli.errors import DamagedError
from fpm_cli.objectives.base import SampleCorpus, Samples
from fpm_cli.objectives.causal import CausalSamples
from fpm_cli.objectives.masked import MaskedSamples
from fpm_cli.objectives.span import SpanSamples


def build_samples(
    config: RunConfig, corpus: SampleCorpus, split: Split, *, allow_smaller_vocabulary: bool = False
) -> Samples:
    """The samples of `split` under the objective of `config.family`.

    With `allow_smaller_vocabulary` the model may have more embeddings than the corpus's tokenizer has
    entries, as imported weights often do.

    Raises:
        DamagedError: the corpus was made with another kind of tokenizer, or one of another size.
        UsageError: the lengths admit no sample, or the split is too small for one.
    """
    _check_tokenizer(config, corpus, allow_smaller_vocabulary)
    train = config.train
    match config.family:
        case "gpt":
            return CausalSamples(
                corpus,
                split,
                sequence_length=train.sequence_length,
                seed=train.seed,
                mask_eod=train.mask_eod_loss,
                document_mask=train.document_mask,
            )
        case "bert":
            return MaskedSamples(
                corpus,
                split,
                sequence_length=train.sequence_length,
                seed=train.seed,
                masked_share=train.masked_share,
                separate_segments=config.model.sentence_task == "match",
            )
        case "encdec":
            return SpanSamples(
                corpus,
                split,
                encoder_length=train.sequence_length,
                decoder_length=train.decoder_length,
                seed=train.seed,
            )


def _check_tokenizer(config: RunConfig, corpus: SampleCorpus, allow_smaller_vocabulary: bool) -> None:
    kind, vocab_size = corpus.tokenizer.kind, corpus.tokenizer.vocab_size
    if kind != config.tokenizer:
        raise DamagedError(
            f"the corpus was made with a {kind} tokenizer, and {config.name} takes {config.tokenizer}; "
            f"build one with it, or choose a preset whose tokenizer is {kind} (`fpm presets list`)"
        )
    if allow_smaller_vocabulary and vocab_size < config.model.vocab_size:
        return
    if vocab_size != config.model.vocab_size:
        raise DamagedError(
            f"the corpus has a vocabulary of {vocab_size} ids, and the model one of "
            f"{config.model.vocab_size}; --set model.vocab_size={vocab_size}"
        )
