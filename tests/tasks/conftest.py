"""A task of one's own, its rows, and a pretrained run of each family to fine-tune."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fpm_cli.cli.app import run as fpm
from tests.small_runs import tiny

TASK = """
name = "praise"
language = "en"
labels = ["bad", "good"]
[[layouts]]
format = "csv"
text_a = "text"
label = "label"
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Path:
    """A pretrained run of each family, a task of one's own and its rows."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "praise.toml").write_text(TASK)
    random = np.random.default_rng(0)
    fillers = ["the man", "she said", "all of that day", "when we came home", "it was the house"]
    rows = []
    for number in range(96):
        word, label = [("good", "good"), ("evil", "bad")][number % 2]
        parts = [str(random.choice(fillers)) for _ in range(int(random.integers(1, 4)))]
        parts.insert(int(random.integers(0, len(parts) + 1)), word)
        rows.append(f"{' '.join(parts)} {number},{label}")
    (folder / "train.csv").write_text("text,label\n" + "\n".join(rows[:72]) + "\n")
    (folder / "dev.csv").write_text("text,label\n" + "\n".join(rows[72:]) + "\n")
    for name, layers in (("BERT-E-S", 2), ("EPM-X-S", 2), ("EPM-2-X-S", 4)):
        flags = tiny(name, "train.steps=1", f"model.num_layers={layers}")
        assert fpm(["-q", *flags, "--corpus", str(sample_corpora(name)), "--out", str(folder / name)]) == 0
    return folder
