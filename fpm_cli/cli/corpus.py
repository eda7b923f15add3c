"""`fpm corpus`: what a corpus contains, as a model reads it, and whether its files are undamaged."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.errors import UsageError

if TYPE_CHECKING:
    from fpm_cli.corpus.corpus import Corpus
    from fpm_cli.objectives.base import Sample, Samples

app = typer.Typer(help="Inspect a corpus, verify its files.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="A corpus's folder (`fpm build-corpus`).")]
SplitOption = Annotated[Literal["train", "validation"], typer.Option(help="Which split.")]


@app.command(
    "verify",
    epilog="Examples:\n\n  fpm corpus verify corpora/books\n\n  fpm corpus verify corpora/books --json",
)
def verify(folder: Folder, as_json: JsonFlag = False) -> None:
    """Compare every file with its checksum; exit 6 and name the damaged ones if any differs."""
    from fpm_cli.corpus.corpus import Corpus

    corpus = Corpus.open(folder)
    corpus.verify()
    files = corpus.manifest.files
    result = {
        "corpus": str(folder),
        "fingerprint": corpus.manifest.fingerprint,
        "files": len(files),
        "bytes": sum(facts.bytes for facts in files.values()),
    }
    if as_json:
        show_json("corpus-verify", result)
    else:
        show(f"{folder}: {len(files)} files, {result['bytes']:,} bytes, every checksum as recorded")


@app.command(
    "inspect",
    epilog="Examples:\n\n  fpm corpus inspect corpora/books\n\n"
    "  fpm corpus inspect corpora/news --split validation --samples 5 --json",
)
def inspect(
    folder: Folder,
    split: SplitOption = "train",
    samples: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="How many samples of the objective to show.")
    ] = 2,
    sequence_length: Annotated[int, typer.Option(min=16, max=MAX_COUNT, help="Tokens of a sample.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=MAX_COUNT, help="Of order, masks and spans.")] = 1234,
    as_json: JsonFlag = False,
) -> None:
    """Show counts, and samples of the tokenizer's objective with what is masked or predicted.

    gpt: the text to continue. bert: what the model reads, and in braces after it the label to predict.
    t5: the encoder's text with sentinels, and the decoder's. A split too small for a sample shows documents.
    """
    from fpm_cli.corpus.corpus import Corpus

    corpus = Corpus.open(folder)
    manifest, note = corpus.manifest, ""
    try:
        shown = _samples(corpus, split, samples, sequence_length, seed)
    except UsageError as error:  # too small for one sample: its documents can be shown all the same
        shown, note = _documents(corpus, split, samples), str(error)
    if as_json:
        document = {"manifest": manifest.document(), "split": split, "samples": shown, "note": note}
        show_json("corpus-inspect", document)
        return
    table = Table("split", "documents", "sequences", "tokens", "bytes of text")
    for name, facts in manifest.splits.items():
        numbers = (facts.documents, facts.sequences, facts.tokens, facts.text_bytes)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    show(table)
    counts = manifest.counts
    dropped = ", ".join(f"{reason} {number:,}" for reason, number in counts.dropped.items())
    show(f"{manifest.source}: {counts.documents_read:,} documents read, {counts.documents_kept:,} kept")
    show(f"dropped: {dropped or 'none'}")
    show(f"tokenizer {manifest.tokenizer.kind}, {manifest.tokenizer.vocab_size:,} entries")
    if note:
        log(f"no sample of {sequence_length} tokens, so whole documents are shown: {note}")
    for number, sample in enumerate(shown):
        for part, text in sample.items():
            show(f"\n{split} sample {number}, {part}:\n{text}")


def _samples(
    corpus: "Corpus", split: Literal["train", "validation"], number: int, length: int, seed: int
) -> list[dict[str, Any]]:
    if not number:
        return []
    from fpm_cli.objectives.causal import CausalSamples
    from fpm_cli.objectives.masked import MaskedSamples
    from fpm_cli.objectives.span import SpanSamples

    kind = corpus.manifest.tokenizer.kind
    source: Samples
    if kind.startswith("bert"):
        source = MaskedSamples(corpus, split, sequence_length=length, seed=seed)
        return [_masked(corpus, source[index]) for index in range(number)]
    if kind.startswith("t5"):
        source = SpanSamples(corpus, split, encoder_length=length, decoder_length=length // 2, seed=seed)
        return [_spans(corpus, source[index]) for index in range(number)]
    source = CausalSamples(corpus, split, sequence_length=length, seed=seed)
    return [{"text": corpus.tokenizer.decode(source[index]["tokens"].tolist())} for index in range(number)]


def _documents(corpus: "Corpus", split: Literal["train", "validation"], number: int) -> list[dict[str, Any]]:
    """The first documents as text; a BERT document is one line per sentence."""
    sequences, tokenizer = corpus.split(split), corpus.tokenizer

    def text(index: int) -> str:
        return tokenizer.decode(i for i in sequences[index].tolist() if i != tokenizer.special.eod)

    bounds = sequences.document_index[: number + 1].tolist()
    return [{"document": "\n".join(map(text, range(begin, end)))} for begin, end in pairwise(bounds)]


def _masked(corpus: "Corpus", sample: "Sample") -> dict[str, Any]:
    """Tokens in order; where a label is scored it follows in braces."""
    real = sample["attention_mask"].astype(bool)
    seen = corpus.tokenizer.tokens(sample["tokens"][real].tolist())
    labels = corpus.tokenizer.tokens(sample["labels"][real].tolist())
    scored = sample["loss_mask"][real] > 0
    marked = [f"{a}{{{b}}}" if mark else a for a, b, mark in zip(seen, labels, scored, strict=True)]
    return {"tokens": " ".join(marked), "sentence order": "swapped" if sample["sentence_order"] else "kept"}


def _spans(corpus: "Corpus", sample: "Sample") -> dict[str, Any]:
    encoder = sample["encoder_tokens"][sample["encoder_mask"].astype(bool)]
    target = sample["labels"][sample["loss_mask"] > 0]
    pieces = corpus.tokenizer.tokens
    return {"encoder": " ".join(pieces(encoder.tolist())), "decoder": " ".join(pieces(target.tolist()))}
