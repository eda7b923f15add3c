"""What the comparison of task scores is made of: per-example shares of accuracy and F1."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fpm_cli.study.analysis import example_scores


@pytest.mark.parametrize(
    ("score", "reference"),
    [
        ("accuracy", accuracy_score),
        ("f1_positive", f1_score),
        ("f1_macro", lambda labels, guesses: f1_score(labels, guesses, average="macro")),
    ],
)
def test_example_scores_have_the_mean_and_the_spread_of_the_score(score: str, reference: object) -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random(2000) < 0.37).astype(np.int64)
    guesses = np.where(rng.random(2000) < 0.85, labels, 1 - labels)
    shares = example_scores(labels, guesses, score)
    assert shares.mean() == pytest.approx(reference(labels, guesses), abs=2e-3)  # type: ignore[operator]
    resampled = []
    for _ in range(800):
        rows = rng.integers(2000, size=2000)
        resampled.append(reference(labels[rows], guesses[rows]))  # type: ignore[operator]
    assert np.sqrt(shares.var(ddof=1) / 2000) == pytest.approx(np.std(resampled), rel=0.1)
