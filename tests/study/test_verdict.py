"""The verdict says what the data carry, and no more."""

import numpy as np

from fpm_cli.study.comparison import compare_depths
from fpm_cli.study.paper_study import analyse_table3
from fpm_cli.study.verdict import give_verdict


def test_a_clear_winner_is_named_alone() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(5, 4)) * 0.01 + np.array([0.0, 1.0, 0.5, 0.2])
    verdict = give_verdict(compare_depths((6, 12, 24, 48), scores))
    assert verdict.candidates == (12,)
    assert verdict.sentence == "12 layers are best (5 seeds, 95 % confidence)"


def test_what_cannot_be_told_apart_is_listed_with_the_seeds_that_would_tell() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3, 3)) * 0.02 + np.array([0.0, 1.0, 1.03])
    verdict = give_verdict(compare_depths((6, 12, 24), scores))
    assert verdict.candidates == (12, 24)
    assert verdict.more_seeds is not None and verdict.more_seeds > 0
    assert verdict.sentence.startswith("12 and 24 layers cannot be told apart with 3 seeds; about ")


def test_a_best_depth_at_the_edge_of_the_grid_is_pointed_out() -> None:
    scores = np.array([[0.0, 1.0, 2.0], [0.01, 1.0, 2.01], [0.0, 1.01, 2.0]])
    assert "deeper ones may be better" in give_verdict(compare_depths((6, 12, 24), scores)).sentence


def test_one_seed_gives_no_winner() -> None:
    verdict = give_verdict(compare_depths((50, 60, 70), [[90.7, 90.7, 91.4]]))
    assert verdict.candidates == (50, 60, 70)
    assert verdict.sentence.startswith("one seed per depth")


def test_the_papers_table_3_cannot_support_its_conclusion() -> None:
    verdict = analyse_table3()
    assert (verdict.best.depth, verdict.runner_up.depth) == (70, 90)
    assert round(verdict.best.standard_error, 2) == 0.14  # study.md: one standard error of 0.91 on 40,430
    assert round(verdict.gap, 2) == 0.51
    assert round(verdict.gap_standard_errors, 1) == 2.6
    assert 0 < verdict.largest_seed_std < 0.2
    seeds = [needed for _, needed in verdict.seeds_needed]
    assert seeds == sorted(seeds) and seeds[0] > 1
