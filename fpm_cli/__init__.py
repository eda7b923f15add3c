"""fpm: train, evaluate and account for families of language models at many depths."""

__version__ = "0.1.0"
