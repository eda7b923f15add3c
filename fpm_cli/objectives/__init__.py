"""Training objectives: a corpus becomes samples, each a pure function of (corpus, config, seed, index)."""
