"""Networks of compiled layers compute what the same networks of PyTorch's modules compute."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.models.blocks import Layer
from fpm_cli.models.build import build_model
from fpm_cli.models.classifier import LOSS, build_classifier
from fpm_cli.ops.layer_branches import BRANCHES
from fpm_cli.ops.selection import is_compiled, use_reference

pytestmark = pytest.mark.usefixtures("compiled")

Gradients = dict[str, Tensor]
NETWORKS = [
    ("CPM-X-S", "pre"),
    ("CPM-X-S", "post"),
    ("CPM-X-S", "deepnorm"),
    ("BERT-C", "pre"),
    ("BERT-C", "post"),
    ("BERT-C", "deepnorm"),
    ("CPM-2-X-S", "pre"),
    ("CPM-2-X-S", "deepnorm"),
]
# Odd sizes take torch's matrix products, even ones the compiled ones.
ODD = ("model.hidden_size=36", "model.num_heads=3", "model.head_size=12", "model.ffn_size=76")
EVEN = ("model.hidden_size=48", "model.num_heads=3", "model.head_size=16", "model.ffn_size=112")


def small(preset: str, *assignments: str, dropout: float = 0.0) -> RunConfig:
    values = ["model.num_layers=4", "train.micro_batch=3", f"model.dropout={dropout}", *assignments]
    return resolve(preset, proxy=True, environment={}, assignments=values).config


def batch_of(config: RunConfig) -> dict[str, Tensor]:
    """A batch in which the mask and the two texts of each row have different lengths."""
    batch = synthetic_batch(config, 3)
    if config.family == "gpt" and config.train.document_mask:
        length = batch["tokens"].shape[1]
        borders = torch.tensor([[5], [0], [17]])
        batch["documents"] = (torch.arange(length) > borders).long() + (torch.arange(length) > 30).long()
    if config.family == "bert":
        length = batch["tokens"].shape[1]
        ends = torch.tensor([[length], [length - 9], [length // 2]])
        batch["attention_mask"] = torch.arange(length) < ends
        batch["token_types"] = ((torch.arange(length) > ends // 2) & batch["attention_mask"]).long()
        batch["loss_mask"] *= batch["attention_mask"]
    if config.family == "encdec":
        length = batch["encoder_mask"].shape[1]
        batch["encoder_mask"] = torch.arange(length) < torch.tensor([[length], [length - 9], [length // 2]])
    return batch


def losses_and_gradients(config: RunConfig, *, reference: bool) -> tuple[dict[str, float], Gradients]:
    torch.manual_seed(3)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    torch.manual_seed(7)
    with use_reference() if reference else nullcontext():
        losses = model(batch_of(config))
        sum(losses.values()).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(loss.detach()) for name, loss in losses.items()}, found


def assert_close(ours: Gradients, theirs: Gradients) -> None:
    assert ours.keys() == theirs.keys() and len(theirs) > 30
    for name, gradient in theirs.items():
        scale = gradient.abs().max().clamp_min(1e-6)
        assert float((ours[name] - gradient).abs().max() / scale) < 2e-5, name


@pytest.mark.parametrize("sizes", [ODD, EVEN], ids=["odd", "even"])
@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize(("preset", "norm"), NETWORKS)
def test_losses_and_gradients_are_those_of_modules(
    preset: str, norm: str, recompute: str, sizes: tuple[str, ...]
) -> None:
    config = small(preset, *sizes, f"model.norm_placement={norm}", f"engine.recompute={recompute}")
    losses, gradients = losses_and_gradients(config, reference=False)
    expected, expected_gradients = losses_and_gradients(config, reference=True)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert_close(gradients, expected_gradients)


@pytest.mark.parametrize(
    ("preset", "option"), [("CPM-X-S", "train.document_mask=true"), ("BERT-C", "model.sentence_task=match")]
)
def test_documents_are_kept_apart_as_by_a_mask(preset: str, option: str) -> None:
    config = small(preset, *EVEN, option)
    losses, gradients = losses_and_gradients(config, reference=False)
    expected, expected_gradients = losses_and_gradients(config, reference=True)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("preset", ["CPM-X-S", "BERT-C"])
def test_packed_batches_are_those_of_modules(preset: str) -> None:
    config, lengths = small(preset, *EVEN), [5, 5, 17, 1]
    model = build_classifier(config, 3)
    batch = {
        "tokens": torch.randint(1, 97, (sum(lengths),)),
        "token_types": torch.zeros(sum(lengths), dtype=torch.long),
        "lengths": torch.tensor(lengths),
        "labels": torch.tensor([0, 2, 1, 1]),
    }
    results = []
    for context in (nullcontext(), use_reference()):
        with context:
            model.zero_grad()
            loss = model(batch)[LOSS]
            loss.backward()
            results.append((loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert_close(gradients, expected_gradients)


@pytest.mark.parametrize(("preset", "norm"), NETWORKS)
def test_recomputed_layers_drop_the_same_elements(preset: str, norm: str) -> None:
    options = (*EVEN, f"model.norm_placement={norm}")
    configs = [
        small(preset, *options, f"engine.recompute={recompute}", dropout=0.1)
        for recompute in ("none", "selective", "full")
    ]
    (losses, gradients), *others = [losses_and_gradients(config, reference=False) for config in configs]
    for other_losses, other_gradients in others:
        assert other_losses == losses
        assert all(other_gradients[name].equal(gradient) for name, gradient in gradients.items())


@pytest.mark.parametrize("preset", ["CPM-X-S", "BERT-C", "CPM-2-X-S"])
def test_dropout_follows_from_the_seed_of_the_step_and_evaluation_has_none(preset: str) -> None:
    config = small(preset, *EVEN, dropout=0.3)
    model, batch = build_model(config), batch_of(config)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        with torch.no_grad():
            return float(sum(model(batch).values()))

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2)


def test_no_two_dropouts_of_a_network_share_random_numbers() -> None:
    model = build_model(small("CPM-2-X-S"))
    for stack in (model.encoder, model.decoder):
        streams = [
            layer._structure.first_stream + place
            for layer in stack.layers
            for branch in layer._structure.branches
            for place in {branch, BRANCHES[branch].residual_stream}
        ]
        assert len(set(streams)) == len(streams)


def test_a_network_in_float64_runs_its_modules() -> None:
    config = small("CPM-X-S", *EVEN)
    model = build_model(config).double()
    assert not is_compiled(next(model.parameters()))
    assert all(isinstance(layer, Layer) for layer in model.decoder.layers)
    losses = model(batch_of(config))
    assert losses["lm"].dtype == torch.float32 and torch.isfinite(losses["lm"])
