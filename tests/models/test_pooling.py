"""What a classifier reads off BERT: the mean of all tokens, or those of two texts, by `finetune.pooling`."""

import pytest
import torch
from pydantic import ValidationError

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import FinetuneConfig, RunConfig
from fpm_cli.models.bert import BERT
from fpm_cli.models.build import build_model
from fpm_cli.models.classifier import Classifier, build_classifier, load_backbone

LENGTHS = (5, 2, 9, 9, 3)
FIRST_LENGTHS = (2, 1, 8, 1, 2)


def config_with(pooling: str, preset: str = "BERT-E-S") -> RunConfig:
    base = resolve(preset, proxy=True, assignments=["model.num_layers=2"]).config
    return RunConfig.model_validate(
        {**base.model_dump(), "finetune": FinetuneConfig.model_validate({"pooling": pooling})}
    )


def packed_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    size = sum(LENGTHS)
    return {
        "tokens": torch.randint(0, 1024, (size,), generator=generator),
        "token_types": torch.randint(0, 2, (size,), generator=generator),
        "lengths": torch.tensor(LENGTHS),
        "first_lengths": torch.tensor(FIRST_LENGTHS),
        "labels": torch.zeros(len(LENGTHS), dtype=torch.long),
    }


def pretrained(config: RunConfig) -> tuple[BERT, Classifier]:
    network = build_model(config).eval()
    assert isinstance(network, BERT)
    classifier = build_classifier(config, 4).eval()
    assert load_backbone(classifier, network.state_dict()) == ()
    return network, classifier


def test_the_mean_is_that_of_each_sequence_read_alone() -> None:
    network, classifier = pretrained(config_with("mean"))
    batch = packed_batch()
    expected, start = [], 0
    with torch.no_grad():
        for length in LENGTHS:
            part = slice(start, start + length)
            alone = network.encode(
                batch["tokens"][None, part],
                batch["token_types"][None, part],
                torch.ones(1, length, dtype=torch.bool),
            )
            expected.append(classifier.classifier(alone.hidden[0].mean(dim=0)))
            start += length
        torch.testing.assert_close(classifier.logits(batch), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_compared_texts_are_the_means_of_each_pair_read_alone() -> None:
    network, classifier = pretrained(config_with("compare"))
    batch = packed_batch()
    expected, start = [], 0
    with torch.no_grad():
        for length, first in zip(LENGTHS, FIRST_LENGTHS, strict=True):
            part = slice(start, start + length)
            mask = torch.ones(1, length, dtype=torch.bool)
            hidden = network.encode(
                batch["tokens"][None, part], batch["token_types"][None, part], mask
            ).hidden[0]
            u, v = hidden[:first].double().mean(dim=0), hidden[first:].double().mean(dim=0)
            u, v = u / u.square().mean().sqrt(), v / v.square().mean().sqrt()
            features = torch.cat([u, v, (u - v).abs(), u * v]).float()
            expected.append(classifier.classifier(features))
            start += length
        torch.testing.assert_close(classifier.logits(batch), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "compare"])
def test_every_weight_of_a_classifier_by_means_learns(pooling: str) -> None:
    _, classifier = pretrained(config_with(pooling))
    classifier(packed_batch())["classification"].backward()
    assert [name for name, weight in classifier.named_parameters() if weight.grad is None] == []
    assert not hasattr(classifier.backbone, "pooler")


def test_by_default_the_pooled_cls_is_read() -> None:
    network, classifier = pretrained(config_with("default"))
    batch = packed_batch()
    with torch.no_grad():
        alone = network.encode(
            batch["tokens"][None, :5], batch["token_types"][None, :5], torch.ones(1, 5, dtype=torch.bool)
        )
        expected = classifier.classifier(alone.pooled)
        torch.testing.assert_close(classifier.logits(batch)[:1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "compare"])
def test_only_bert_has_means(pooling: str) -> None:
    with pytest.raises(ValidationError, match=rf"finetune.pooling '{pooling}': only bert"):
        config_with(pooling, "CPM-X-S")
