import pytest
import torch

from fpm_cli.config.resolve import resolve
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.models.build import build_model

SMALL = ("model.num_layers=4", "model.dropout=0.1", "train.micro_batch=2")


def losses_and_gradients(name: str, recompute: str, norm: str) -> tuple[dict[str, float], list[torch.Tensor]]:
    values = [*SMALL, f"engine.recompute={recompute}", f"model.norm_placement={norm}"]
    config = resolve(name, proxy=True, environment={}, assignments=values).config
    model = build_model(config)
    torch.manual_seed(7)  # dropout
    losses = model(synthetic_batch(config, config.train.micro_batch))
    sum(losses.values()).backward()
    return {key: float(loss.detach()) for key, loss in losses.items()}, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("norm", ["pre", "deepnorm"])
@pytest.mark.parametrize("name", ["CPM-X-S", "BERT-C", "CPM-2-X-S"])
def test_recomputation_changes_no_bit_of_losses_and_gradients(name: str, norm: str) -> None:
    losses, gradients = losses_and_gradients(name, "none", norm)
    for recompute in ("selective", "full"):
        again, again_gradients = losses_and_gradients(name, recompute, norm)
        assert again == losses
        assert all(torch.equal(a, b) for a, b in zip(gradients, again_gradients, strict=True))
