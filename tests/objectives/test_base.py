"""Samples are pure functions of (corpus, config, seed, index)."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fpm_cli.config.schema import RunConfig
from fpm_cli.objectives.base import Sample, random_for
from fpm_cli.objectives.build import build_samples
from tests.objectives.memory_corpus import MemoryCorpus, proxy, sentence_corpus, stream_corpus

Case = tuple[RunConfig, MemoryCorpus]
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from test_base import case, digest
from fpm_cli.objectives.build import build_samples
samples = build_samples(*case({family!r}), "train")
print([digest(samples[i]) for i in {indices!r}])
"""


def case(family: str) -> Case:
    config = proxy(family)
    return config, sentence_corpus(30) if family == "bert" else stream_corpus(config.tokenizer, 9_000)


def digest(sample: Sample) -> str:
    parts = [key.encode() + values.tobytes() for key, values in sample.items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_sample_is_the_same_in_any_order_and_from_any_instance(family_case: Case, split: str) -> None:
    config, corpus = family_case
    samples = build_samples(config, corpus, split)
    indices = [*range(2 * len(samples)), 10**6, 10**12]
    forwards = [digest(samples[index]) for index in indices]
    again = build_samples(config, corpus, split)
    assert [digest(again[index]) for index in reversed(indices)] == forwards[::-1]


@pytest.mark.parametrize("family", ["gpt", "bert", "encdec"])
def test_a_sample_is_the_same_in_another_process(family: str) -> None:
    indices = [0, 5, 1000, 10**9]
    program = PROGRAM.format(folder=str(Path(__file__).parent), family=family, indices=indices)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    samples = build_samples(*case(family), "train")
    assert result.stdout.strip() == str([digest(samples[index]) for index in indices])


def test_ranks_that_divide_the_indices_see_each_sample_of_an_epoch_once(family_case: Case) -> None:
    config, corpus = family_case
    alone = build_samples(config, corpus, "train")
    ranks = [build_samples(config, corpus, "train") for _ in range(3)]
    together = [digest(ranks[index % 3][index]) for index in range(len(alone))]
    assert together == [digest(sample) for sample in alone]


def test_another_seed_gives_another_training_epoch(family_case: Case) -> None:
    config, corpus = family_case
    one = [digest(sample) for sample in build_samples(config, corpus, "train")]
    other = [digest(sample) for sample in build_samples(with_seed(config, 77), corpus, "train")]
    assert sum(a == b for a, b in zip(one, other, strict=True)) < len(one) / 4


def test_each_training_epoch_has_the_same_text_in_an_order_of_its_own() -> None:
    samples = build_samples(*case("gpt"), "train")  # where nothing but the order is random
    n = len(samples)
    first, second = ([digest(samples[index]) for index in range(e * n, e * n + n)] for e in range(2))
    assert sorted(first) == sorted(second)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < n / 4


def test_validation_is_in_order_and_repeats(family_case: Case) -> None:
    config, corpus = family_case
    samples = build_samples(config, corpus, "validation")
    n = len(samples)
    assert all(digest(samples[i]) == digest(samples[i + n]) for i in range(n))
    assert sum(1 for _ in samples) == n


def test_a_sample_does_not_share_memory_with_the_corpus(family_case: Case) -> None:
    config, corpus = family_case
    before = corpus.data.tokens.copy()
    sample = build_samples(config, corpus, "train")[0]
    for values in sample.values():
        values[...] = 0
    assert np.array_equal(corpus.data.tokens, before)


def test_negative_indices_are_refused(family_case: Case) -> None:
    with pytest.raises(IndexError):
        build_samples(*family_case, "train")[-1]


def test_random_numbers_differ_by_seed_split_and_index_and_are_uniform_across_them() -> None:
    keys = [(seed, split, i) for seed in (0, 1) for split in ("train", "validation") for i in range(2000)]
    first = np.array([random_for(*key).random() for key in keys])
    assert len(np.unique(first)) == len(keys)
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.04
