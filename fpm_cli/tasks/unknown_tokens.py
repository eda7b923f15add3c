"""The share of a file's tokens that the run's tokenizer does not know, which stands beside its scores."""

from fpm_cli.runs.run import Run
from fpm_cli.tasks.examples import ReadExamples
from fpm_cli.tokenization.registry import load_tokenizer


def unknown_token_share(run: Run, examples: ReadExamples) -> float | None:
    """Unknown tokens over all tokens of the examples' texts; None where the run has no tokenizer or text."""
    if not run.tokenizer_path.is_dir():
        return None
    tokenizer = load_tokenizer(run.tokenizer_path)
    unknown = tokenizer.special.unk
    texts = [text for example in examples.examples for text in example.texts]
    ids = [token for encoded in tokenizer.encode_batch(texts) for token in encoded]
    if not ids:
        return None
    return 0.0 if unknown is None else sum(token == unknown for token in ids) / len(ids)
