"""Six tokenizers behind one interface: train one, load ours, load the published ones."""

from fpm_cli.tokenization.base import SpecialTokens, Tokenizer, load_tokenizer, train_tokenizer
from fpm_cli.tokenization.kinds import KINDS
from fpm_cli.tokenization.published import load_published

__all__ = ["KINDS", "SpecialTokens", "Tokenizer", "load_published", "load_tokenizer", "train_tokenizer"]
