"""BERT's losses and gradients over a packed stream are those of the padded batch that it was made of."""

import numpy as np
import pytest
import torch

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.batches import load_batch
from fpm_cli.models.build import build_model
from fpm_cli.objectives.base import Sample
from fpm_cli.objectives.collate import collate
from fpm_cli.ops.selection import use_reference

CPU, LENGTH, ROWS = torch.device("cpu"), 24, 7


def config_of(task: str, recompute: str = "none") -> RunConfig:
    values = [f"model.sentence_task={task}", f"engine.recompute={recompute}", "model.num_layers=2"]
    values += [f"train.sequence_length={LENGTH}", "train.micro_batch=7", "train.global_batch=7"]
    return resolve("BERT-C", proxy=True, environment={}, assignments=values).config


def padded_samples(config: RunConfig) -> list[Sample]:
    """Rows of different lengths; the shortest has one token in each half."""
    random, samples, positions = np.random.default_rng(0), [], np.arange(LENGTH)
    for n in (9, 2, 24, 9, 13, 16, 24)[:ROWS]:
        cut = n // 2
        real = positions < n
        sample = {
            "tokens": random.integers(4, config.model.vocab_size, LENGTH) * real,
            "token_types": ((positions >= cut) & real).astype(np.int64),
            "attention_mask": real,
            "labels": random.integers(4, config.model.vocab_size, LENGTH),
            "loss_mask": (real & (positions % 4 == 1)).astype(np.float32),
        }
        if config.model.sentence_task == "order":
            sample["sentence_order"] = np.array(n % 2)
        samples.append(sample)
    return samples


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("task", ["order", "match"])
def test_losses_and_gradients_are_those_of_the_padded_batch(
    task: str, reference: bool, recompute: str
) -> None:
    config = config_of(task, recompute)
    torch.manual_seed(0)
    model = build_model(config).eval()
    samples = padded_samples(config)
    padded = {name: torch.from_numpy(array) for name, array in collate(samples).items()}
    packed = load_batch(samples, range(ROWS), CPU)
    assert "attention_mask" not in packed and packed["tokens"].shape == (sum((9, 2, 24, 9, 13, 16, 24)),)
    results = []
    for batch in (padded, packed):
        model.zero_grad()
        if reference:
            with use_reference():
                losses = model(batch)
                sum(losses.values()).backward()
        else:
            losses = model(batch)
            sum(losses.values()).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((losses, gradients, model.num_predictions(batch)))
    (expected, expected_gradients, counts), (losses, gradients, packed_counts) = results
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-5)
        assert packed_counts[name] == counts[name]
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_without_padding_stays_as_it_is() -> None:
    config = config_of("order")
    samples = [sample for sample in padded_samples(config) if sample["attention_mask"].all()]
    batch = load_batch(samples, range(len(samples)), CPU)
    assert batch["tokens"].shape == (len(samples), LENGTH) and "lengths" not in batch
