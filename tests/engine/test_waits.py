"""What the host waits for while a step runs, and what it hands the device so that it need not wait."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fpm_cli import cuda
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine import batches
from fpm_cli.engine.batches import Batch, load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model
from fpm_cli.ops.attention import Packing, grouped_attention, jagged_attention

CPU = torch.device("cpu")
# Operators whose result, or the shape of it, the host needs: on a GPU it waits until they have run.
READ_BY_THE_HOST = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class HostWaits(TorchDispatchMode):
    """Collects the operators for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in INDEXED and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        by_count = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in READ_BY_THE_HOST or by_mask or by_count:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def config_of(preset: str, stage: int, passes: int) -> RunConfig:
    values = [f"engine.zero_stage={stage}", "engine.precision=bf16", "engine.kernels=reference"]
    values += [f"train.global_batch={2 * passes}", "train.micro_batch=2", "train.sequence_length=32"]
    values += ["model.num_layers=2", *(["train.decoder_length=16"] if "-2-" in preset else [])]
    return resolve(preset, proxy=True, environment={}, assignments=values).config


def samples_of(config: RunConfig) -> Any:
    batch = synthetic_batch(config, 2)
    return [{name: tensor[row].numpy().copy() for name, tensor in batch.items()} for row in range(2)]


def waits_of_a_step(preset: str, stage: int, passes: int, *, padded: bool = False) -> list[str]:
    config, name = config_of(preset, stage, passes), "attention_mask"
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config), config, world)
        samples = samples_of(config)
        if padded:
            samples[0][name][20:] = False
        loaded = [load_batch(samples, range(2), CPU) for _ in range(passes)]
        for _ in range(2):  # ZeRO 3 records the order of modules in its first steps
            engine.step(loaded, 1e-3)
        with HostWaits() as waits:
            engine.step(loaded, 1e-3)
    return waits.names


@pytest.mark.parametrize(
    ("preset", "stage", "padded"),
    [
        ("BERT-C", 1, False),
        ("BERT-C", 1, True),
        ("CPM-X-S", 2, False),
        ("CPM-2-X-S", 2, False),
        ("CPM-X-S", 3, False),
    ],
)
def test_one_more_pass_makes_the_host_wait_no_longer(preset: str, stage: int, padded: bool) -> None:
    two, three = (waits_of_a_step(preset, stage, passes, padded=padded) for passes in (2, 3))
    assert two, "the loss and the gradient norm of the step are read"
    assert len(three) == len(two), three


def test_waits_are_seen() -> None:
    x, chosen = torch.ones(3, requires_grad=True), torch.tensor([True, False, True])
    with HostWaits() as waits:
        x[chosen].sum().backward()
        float(x.detach().sum())
        torch.repeat_interleave(x.detach(), torch.tensor([1, 2, 3]))
    assert {"index", "_local_scalar_dense", "repeat_interleave"} <= set(waits.names)


def test_deepspeeds_timer_that_waits_twice_per_pass_is_off() -> None:
    config = config_of("CPM-X-S", 1, 1)
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config), config, world)
        assert not engine.deepspeed.tput_timer.config.enabled


def test_a_mask_that_masks_nothing_is_left_out() -> None:
    for preset, name in (("BERT-C", "attention_mask"), ("CPM-2-X-S", "encoder_mask")):
        samples = samples_of(config_of(preset, 1, 1))
        assert name not in load_batch(samples, range(2), CPU)
        samples[1][name][-1] = False
        batch = load_batch(samples, range(2), CPU)
        num_real = len(batch["tokens"]) if preset == "BERT-C" else batch[name].sum()  # BERT's is unpadded
        assert num_real == 2 * 32 - 1


def without_hints(batch: Batch, name: str) -> Batch:
    """As a batch was before: with a mask of ones, and without the masked positions."""
    mask = torch.ones_like(batch["encoder_tokens" if name == "encoder_mask" else "tokens"], dtype=torch.bool)
    return {key: value for key, value in batch.items() if key != "masked_positions"} | {name: mask}


@pytest.mark.parametrize(("preset", "name"), [("BERT-C", "attention_mask"), ("CPM-2-X-S", "encoder_mask")])
def test_what_is_left_out_changes_no_loss(preset: str, name: str) -> None:
    config = config_of(preset, 1, 1)
    torch.manual_seed(0)
    model = build_model(config).eval()
    batch = load_batch(samples_of(config), range(2), CPU)
    assert ("masked_positions" in batch) == (preset == "BERT-C")
    for key, loss in model(without_hints(batch, name)).items():
        torch.testing.assert_close(model(batch)[key], loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("preset", ["BERT-C", "CPM-X-S"])
def test_attention_without_a_mask_is_asked_for_where_nothing_is_masked(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's flash attention takes no mask, so that one would choose a slower kernel."""
    masks: list[Any] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, attn_mask: Any = None, **named: Any) -> Any:
        masks.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    config = config_of(preset, 1, 1)
    from fpm_cli.ops.selection import use_reference

    with use_reference():
        build_model(config).eval()(load_batch(samples_of(config), range(2), CPU))
    assert masks == [None, None]


class PinnedArray:
    """Stands in for a tensor on its way to a GPU."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def pin_memory(self) -> "PinnedArray":
        self.calls.append(("pin_memory", None))
        return self

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "PinnedArray":
        self.calls.append((str(device), non_blocking))
        return self


def test_batches_reach_a_gpu_through_pinned_memory_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = PinnedArray()
    monkeypatch.setattr(batches.torch, "from_numpy", lambda array: tensor)
    load_batch([{"tokens": np.zeros(3)}], range(1), torch.device("cuda", 1))  # type: ignore[arg-type]
    assert tensor.calls == [("pin_memory", None), ("cuda:1", True)]


def test_a_packed_stream_has_its_offsets_on_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[torch.device] = []
    to_device = cuda.to_device
    monkeypatch.setattr(cuda, "to_device", lambda x, device: copies.append(device) or to_device(x, device))
    packing, parts = Packing((3, 2, 4)), torch.randn(9, 3, 2, 4)
    expected = grouped_attention(parts, packing, 0.5, False, 0.0)
    for _ in range(3):  # layers
        torch.testing.assert_close(jagged_attention(parts, packing, 0.5, False, 0.0), expected)
    packing.first(parts), packing.last(parts), packing.mean(parts.flatten(1))
    assert copies == [CPU]
