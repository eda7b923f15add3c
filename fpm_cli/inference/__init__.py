"""Using a trained run: load it, generate text, score it as a language model."""
