"""Six tokenizers behind one interface: train one, load a saved one, or load published files."""

from fpm_cli.tokenization.base import SpecialTokens, Tokenizer
from fpm_cli.tokenization.published import load_published
from fpm_cli.tokenization.registry import KINDS, load_tokenizer, train_tokenizer

__all__ = ["KINDS", "SpecialTokens", "Tokenizer", "load_published", "load_tokenizer", "train_tokenizer"]
