"""Scores against scikit-learn's, intervals against scipy's bootstrap, and two runs against each other."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from fpm_cli.tasks.scores import Scores, compare, score, scores_from_confusion
from fpm_cli.tasks.scores import confusion_matrix as ours_confusion

Classes = NDArray[np.int64]


def random_case(seed: int) -> tuple[Classes, Classes, int]:
    """Labels, predictions and the number of classes; with few examples some classes do not occur."""
    generator = np.random.default_rng(seed)
    num_classes = int(generator.choice([2, 2, 3, 15]))
    n = int(generator.integers(1, 200))
    labels = generator.integers(0, num_classes, n)
    made = np.where(generator.random(n) < generator.random(), labels, generator.integers(0, num_classes, n))
    return labels, made, num_classes


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_a_thousand_random_cases_score_as_in_scikit_learn_glue_and_clue() -> None:
    for seed in range(1000):
        labels, made, k = random_case(seed)
        confusion = ours_confusion(labels, made, k)
        np.testing.assert_array_equal(confusion, confusion_matrix(labels, made, labels=list(range(k))))
        ours = scores_from_confusion(confusion, 1 if k == 2 else None)
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, made, average="macro", zero_division=0
        )
        expected = {
            "accuracy": accuracy_score(labels, made),  # CLUE's measure of TNEWS, GLUE's first of QQP
            "precision_macro": precision,
            "recall_macro": recall,
            "f1_macro": f1,
            "matthews": matthews_corrcoef(labels, made),  # GLUE's of CoLA
        }
        if k == 2:  # GLUE's second of QQP: scikit-learn's F1 of class 1
            expected["f1_positive"] = f1_score(labels, made, pos_label=1, zero_division=0)
        assert set(ours) == set(expected)
        for name, value in expected.items():
            assert ours[name] == pytest.approx(value, abs=1e-12), (seed, name)


@pytest.mark.parametrize("k", [2, 5])
def test_intervals_are_those_of_a_bootstrap_over_examples(k: int) -> None:
    generator = np.random.default_rng(7)
    labels = generator.integers(0, k, 400)
    made = np.where(generator.random(400) < 0.7, labels, generator.integers(0, k, 400))
    found = score(labels, made, k, 1 if k == 2 else None)

    def macro(indices: Classes) -> float:
        return float(f1_score(labels[indices], made[indices], average="macro"))

    def accuracy(indices: Classes) -> float:
        return float(np.mean(labels[indices] == made[indices]))

    for name, statistic, resamples in (("f1_macro", macro, 600), ("accuracy", accuracy, 5000)):
        other = bootstrap(
            (np.arange(400),),
            statistic,
            vectorized=False,
            method="percentile",
            n_resamples=resamples,
            rng=np.random.default_rng(1),
        ).confidence_interval
        low, high = found.ci95[name]
        assert low == pytest.approx(other.low, abs=0.009) and high == pytest.approx(other.high, abs=0.009)
        assert low < found.metrics[name] < high  # type: ignore[operator]


def test_scores_are_the_same_each_time_and_intervals_narrow_with_more_examples() -> None:
    labels, made, k = random_case(3)
    assert score(labels, made, k, None) == score(labels, made, k, None)
    few = score(np.tile(labels, 10), np.tile(made, 10), k, None).ci95["accuracy"]
    many = score(np.tile(labels, 1000), np.tile(made, 1000), k, None).ci95["accuracy"]
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(10, rel=0.15)


def test_one_example_and_one_class_have_scores() -> None:
    one = score(np.array([1]), np.array([1]), 2, 1)
    names = ("accuracy", "f1_positive", "precision_macro", "recall_macro", "f1_macro")
    assert one == Scores(
        1,
        {**dict.fromkeys(names, 1.0), "matthews": 0.0},
        {**dict.fromkeys(names, (1.0, 1.0)), "matthews": (0.0, 0.0)},
        ((0, 0), (0, 1)),
    )
    assert score(np.array([0]), np.array([1]), 2, 1).metrics["f1_positive"] == 0.0


def test_the_paired_interval_is_narrower_than_two_separate_ones_for_runs_that_agree() -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 15, 2000)
    made = np.where(generator.random(2000) < 0.5, labels, generator.integers(0, 15, 2000))
    better = np.where(generator.random(2000) < 0.05, labels, made)  # right a little more often, else the same
    found = compare(labels, better, made, 15, None)["accuracy"]
    a, b = score(labels, better, 15, None), score(labels, made, 15, None)
    assert found.difference == pytest.approx(a.metrics["accuracy"] - b.metrics["accuracy"])
    assert found.ci95[0] > 0 and found.p_value < 0.01
    assert a.ci95["accuracy"][0] < b.ci95["accuracy"][1]  # which overlap all the same

    paired = (better == labels).astype(float) - (made == labels)
    other = bootstrap(
        (paired,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.ci95 == pytest.approx((other.low, other.high), abs=0.002)


def test_a_run_is_no_better_than_itself() -> None:
    labels, made, k = random_case(11)
    for difference in compare(labels, made, made, k, None).values():
        assert (difference.difference, difference.ci95, difference.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_swapping_two_runs_turns_the_difference_round() -> None:
    labels, made, k = random_case(12)
    others = np.roll(made, 1)
    there, back = compare(labels, made, others, k, None), compare(labels, others, made, k, None)
    for name, one in there.items():
        assert one.difference == pytest.approx(-back[name].difference)
        assert one.ci95 == pytest.approx(tuple(-x for x in reversed(back[name].ci95)), abs=0.02)
