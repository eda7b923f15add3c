"""`model.sentence_task = "match"`: two texts of a row are encoded apart, and found by each other."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from fpm_cli.accounting.parameters import parameter_shapes
from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.models.bert import BERT, MATCH_TEMPERATURE, masked_mean, summed_match_loss
from fpm_cli.models.build import build_model, build_skeleton
from fpm_cli.runs.run import Run
from tests.small_runs import metrics, tiny

MATCH = "model.sentence_task=match"


def config(*assignments: str) -> RunConfig:
    values = ["model.vocab_size=97", "model.num_layers=2", MATCH, *assignments]
    return resolve("BERT-C", proxy=True, environment={}, assignments=values).config


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_each_text_is_encoded_as_if_it_stood_alone(placement: str) -> None:
    torch.manual_seed(3)
    model = build_model(config(f"model.norm_placement={placement}")).eval()
    assert isinstance(model, BERT)
    firsts, seconds = [7, 4, 9], [5, 12, 3]
    texts = [torch.randint(97, (2, n)) for n in (*firsts, *seconds)]
    width = max(a + b for a, b in zip(firsts, seconds, strict=True)) + 2
    for a, b in zip(texts[:3], texts[3:], strict=True):
        tokens = torch.zeros(2, width, dtype=torch.long)
        n = a.shape[1] + b.shape[1]
        tokens[:, :n] = torch.cat([a, b], dim=1)
        places = torch.arange(width).expand(2, width)
        second, keep = (places >= a.shape[1]) & (places < n), places < n
        with torch.inference_mode():
            hidden = model.encode_separately(tokens, second, keep)
            for text, chosen in ((a, keep & ~second), (b, second)):
                every = torch.ones_like(text, dtype=torch.bool)
                alone = model.encode(text, torch.zeros_like(text), every).hidden
                torch.testing.assert_close(hidden[chosen].view(alone.shape), alone, atol=1e-5, rtol=0)
                torch.testing.assert_close(masked_mean(hidden, chosen), alone.mean(dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_the_loss_is_the_mean_cross_entropy_of_both_ways(count: int) -> None:
    random = np.random.default_rng(count)
    first, second = random.normal(size=(2, count, 24))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second)]
    scores = unit[0] @ unit[1].T / MATCH_TEMPERATURE
    ways = [logsumexp(each, axis=1) - np.diag(each) for each in (scores, scores.T)]
    loss = summed_match_loss(torch.from_numpy(first), torch.from_numpy(second))
    assert float(loss) == pytest.approx(np.sum(ways) / 2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["BERT-C", "BERT-E-E"])
def test_it_has_every_parameter_but_the_head_for_the_order(name: str) -> None:
    other, ours = (resolve(name, environment={}, assignments=flags).config for flags in ([], [MATCH]))
    built = {key: tuple(value.shape) for key, value in build_skeleton(ours).named_parameters()}
    assert list(parameter_shapes(ours).items()) == list(built.items())
    missing = set(parameter_shapes(other)) - set(built)
    assert missing == {"sentence_order_head.weight", "sentence_order_head.bias"}


@pytest.mark.parametrize("name", ["CPM-X-S", "CPM-2-X-S"])
def test_families_without_halves_refuse_it(name: str) -> None:
    with pytest.raises(UsageError, match="only bert has one"):
        resolve(name, environment={}, assignments=[MATCH])


def test_a_run_learns_is_scored_exported_and_fine_tuned(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, batch = tmp_path / "run", 16
    sizes = (f"train.global_batch={batch}", f"train.micro_batch={batch}", f"train.eval_samples={batch}")
    flags = tiny("BERT-C", MATCH, *sizes, "model.num_layers=2", "train.steps=120")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("BERT-C")), "--out", str(run)]) == 0
    losses = [loss for _, loss in sorted(metrics(run, "train").items())]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5

    capsys.readouterr()
    assert fpm(["evaluate", "lm", str(run), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["sentence_order_loss"] is None
    assert score["sentence_match_loss"] < math.log(batch) - 0.1  # what guessing among 16 gives

    out = tmp_path / "exported"
    assert fpm(["-q", "export", str(run), "--format", "transformers", "--out", str(out)]) == 0
    trained = load_trained_model(Run.open(run))
    assert isinstance(trained.model, BERT) and not hasattr(trained.model, "sentence_order_head")

    rows = [f"{'却说曹操' if row % 2 else '且说宝玉'}{row}\t{'ab'[row % 2]}" for row in range(40)]
    (tmp_path / "rows.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    task = 'name = "two"\nlanguage = "zh"\nlabels = ["a", "b"]\n'
    task += '[[layouts]]\nformat = "tsv"\ntext_a = "text"\nlabel = "label"\n'
    (tmp_path / "two.toml").write_text(task, encoding="utf-8")
    arguments = ["-q", "finetune", str(tmp_path / "two.toml"), "--from", str(run), "--nproc", "1"]
    arguments += ["--train", str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "tuned")]
    assert fpm(arguments) == 0
