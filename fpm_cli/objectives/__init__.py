"""Training objectives: samples of a corpus, each a pure function of (corpus, config, seed, index)."""
