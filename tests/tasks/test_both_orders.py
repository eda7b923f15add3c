"""`finetune.both_orders`: pairs are trained on both ways round in turns, and scored by the mean of both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.errors import UsageError
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.examples import Example
from fpm_cli.tasks.finetune_run import FinetuneRequest, create_run
from fpm_cli.tasks.finetuning import Finetuning
from fpm_cli.tasks.predict import predict
from tests.small_runs import tiny

PAIRS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Run:
    folder = tmp_path_factory.mktemp("both")
    flags = tiny("BERT-E-S", "train.steps=1", "model.num_layers=2")
    corpus = str(sample_corpora("BERT-E-S"))
    assert fpm(["-q", *flags, "--corpus", corpus, "--out", str(folder / "pretrained")]) == 0
    lines = [f"{n}\t{n}\t{n}\twas it number {n}\tthe man came home\t{n % 2}" for n in range(PAIRS)]
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    (folder / "train.tsv").write_text("\n".join([header, *lines]) + "\n")
    request = FinetuneRequest(
        load_task("qqp"),
        folder / "pretrained",
        (folder / "train.tsv",),
        validation=folder / "train.tsv",
        assignments=("finetune.both_orders=true", "finetune.pooling=compare", "train.global_batch=8"),
    )
    return create_run(request, folder / "run")


def test_each_epoch_reads_each_pair_once_and_the_next_one_the_other_way_round(run: Run) -> None:
    workload = Finetuning(run)
    assert len(workload.examples) == 2 * PAIRS and len(workload.validation_examples) == PAIRS
    epochs = [np.concatenate([workload.rows(3 * epoch + step) for step in range(3)]) for epoch in range(2)]
    for rows in epochs:
        assert sorted(rows % PAIRS) == list(range(PAIRS))
        assert np.sum(rows >= PAIRS) == PAIRS / 2
    assert sorted(np.concatenate(epochs)) == list(range(2 * PAIRS))


def test_the_second_half_are_the_first_ones_pairs_swapped(run: Run) -> None:
    examples = Finetuning(run).examples
    one, other = (examples.batch(np.array([row]), torch.device("cpu")) for row in (3, 3 + PAIRS))
    first = int(one["first_lengths"][0])
    assert other["tokens"].tolist() == [
        int(one["tokens"][0]),
        *one["tokens"][first:].tolist(),
        *one["tokens"][1:first].tolist(),
    ]
    assert one["labels"].tolist() == other["labels"].tolist()


def test_what_is_predicted_does_not_depend_on_the_order(run: Run) -> None:
    task = load_task("qqp")
    pairs = [Example("1", "was it he", "the man came home again", None, "", 1)]
    one, other = predict(run, task, pairs), predict(run, task, [pairs[0].swapped()])
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert one.shape == (1, 2) and abs(one.sum() - 1) < 1e-6


def test_a_task_of_single_texts_has_no_orders(run: Run, tmp_path: Path) -> None:
    source = Path(run.manifest().task.origin.run)
    (tmp_path / "rows.json").write_text(
        '{"label": "100", "sentence": "一"}\n{"label": "101", "sentence": "二"}\n'
    )
    request = FinetuneRequest(
        load_task("tnews"),
        source,
        (tmp_path / "rows.json",),
        validation=tmp_path / "rows.json",
        assignments=("finetune.both_orders=true",),
    )
    with pytest.raises(UsageError, match=r"finetune.both_orders: tnews has one text"):
        create_run(request, tmp_path / "run")
