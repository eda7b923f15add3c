import random

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fpm_cli.accounting.flops import (
    forward_flops,
    peak_budget_flops,
    published_step_flops,
    step_flops,
    unpadded_flops,
)
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.batches import load_batch
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.models.build import build_model
from fpm_cli.ops.attention import Packing

pytestmark = pytest.mark.usefixtures("reference")  # torch counts its own operators only
PRESET = {"gpt": "CPM-X-S", "bert": "BERT-C", "encdec": "CPM-2-X-S"}


def plain(name):
    return resolve(name, environment={}).config


@pytest.mark.parametrize(
    ("name", "flops"), [("CPM-2-X-S", 6.5624e12), ("EPM-2-X-S", 6.5845e12), ("CPM-2-X-M", 1.2960e13)]
)
def test_an_encoder_decoder_sample_costs_what_its_closed_form_says(name, flops):
    assert 3 * forward_flops(plain(name)).total == pytest.approx(flops, rel=1e-4)


@pytest.mark.parametrize("name", ["CPM-X-L", "EPM-X-X", "BERT-E-E", "BERT-C"])
def test_the_published_closed_form_holds(name):
    config = plain(name)
    b, s, v = config.train.global_batch, config.train.sequence_length, config.model.vocab_size
    h, layers = config.model.hidden_size, config.model.num_layers
    closed = 72 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert published_step_flops(config) == pytest.approx(closed, rel=1e-12)
    everywhere = step_flops(config, predicted_positions=s).model
    assert everywhere == pytest.approx(closed, rel=0 if config.family == "gpt" else 5e-3)


def test_the_full_recomputation_closed_form_holds_less_the_head():
    config = plain("CPM-X-L")
    b, s, v = config.train.global_batch, config.train.sequence_length, config.model.vocab_size
    h, layers = config.model.hidden_size, config.model.num_layers
    with_head = 96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert step_flops(config).hardware == pytest.approx(with_head, rel=1e-12)


def test_the_halved_figure_takes_half_of_causal_attention_only():
    gpt, bert, encdec = plain("CPM-X-S"), plain("BERT-C"), plain("CPM-2-X-S")
    assert forward_flops(gpt, causal="halved").attention * 2 == forward_flops(gpt).attention
    assert forward_flops(bert, causal="halved") == forward_flops(bert)
    s_d, a, layers = encdec.train.decoder_length, encdec.model.attention_size, encdec.model.num_layers // 2
    given_away = forward_flops(encdec).attention - forward_flops(encdec, causal="halved").attention
    assert given_away == layers * 2 * s_d * s_d * a


def test_a_peak_budget_is_time_times_devices_times_peak():
    assert peak_budget_flops(81 * 3600, 8, 312e12) == pytest.approx(727.8e18, rel=1e-4)


def random_config(family, rng, recompute):
    head = rng.choice([4, 8, 16])
    heads = rng.choice([1, 2, 4])
    sizes = {
        "model.num_layers": rng.choice([2, 4]),
        "model.hidden_size": rng.choice([24, 32, 48]),
        "model.num_heads": heads,
        "model.head_size": head,
        "model.ffn_size": rng.choice([40, 96]),
        "model.vocab_size": rng.randrange(50, 200),
        "train.sequence_length": rng.randrange(16, 64),
        "train.global_batch": rng.randrange(1, 5),
        "model.dropout": rng.choice([0.0, 0.1]),
        "model.norm_placement": rng.choice(["pre", "deepnorm"]),
        "engine.recompute": recompute,
    }
    if family == "bert":
        sizes["model.sentence_task"] = rng.choice(["order", "match"])
    if family == "encdec":
        sizes["train.decoder_length"] = rng.randrange(8, 32)
    else:
        sizes["model.max_positions"] = 64
    return resolve(
        PRESET[family], environment={}, assignments=[f"{key}={value}" for key, value in sizes.items()]
    ).config


def batch_of(config, *, padded):
    """A batch of each family: padded at the end, or GPT's with two documents kept apart in each sample."""
    batch = synthetic_batch(config, config.train.global_batch)
    if padded and config.family == "gpt":
        batch["documents"] = (
            (torch.arange(config.train.sequence_length) > 7).long().expand_as(batch["tokens"])
        )
    for name in ("attention_mask", "encoder_mask"):
        if padded and name in batch:
            batch[name][:, -config.train.sequence_length // 4 :] = False
    return batch


def counted_flops(config, batch):
    model = build_model(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = model(batch)
        sum(losses.values()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("family", ["gpt", "bert", "encdec"])
def test_the_structure_gives_what_torch_counts(family, recompute):
    rng = random.Random(f"{family} {recompute}")
    for index in range(30):
        config = random_config(family, rng, recompute)
        counted = counted_flops(config, batch_of(config, padded=index % 2 == 1))
        assert step_flops(config).hardware == pytest.approx(counted, rel=5e-3), config.model


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_a_packed_stream_costs_each_sequence_at_its_own_length(family):
    rng = random.Random(f"{family} packed")
    for _ in range(30):
        config = random_config(family, rng, "none")
        lengths = sorted(rng.randrange(2, 64) for _ in range(rng.randrange(1, 6)))
        model, packing, tokens = build_model(config), Packing(tuple(lengths)), torch.ones(sum(lengths)).long()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            if family == "gpt":
                found, pooler = model.hidden_packed(tokens, packing), 0
            else:
                encoded = model.encode_packed(tokens, torch.zeros_like(tokens), packing)
                found = encoded.hidden.sum() + encoded.pooled.sum()
                pooler = 2 * len(lengths) * config.model.hidden_size**2
            found.sum().backward()
        expected = 3 * (sum(forward_flops(of_length(config, n)).layers for n in lengths) + pooler)
        assert expected == pytest.approx(counter.get_total_flops(), rel=5e-3), config.model


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("task", ["order", "match"])
def test_a_batch_without_its_padding_costs_what_torch_counts(task, recompute):
    rng = random.Random(f"{task} {recompute}")
    for _ in range(10):
        config = random_config("bert", rng, recompute)
        rows = config.train.global_batch
        model = config.model.model_copy(update={"sentence_task": task})
        train = config.train.model_copy(update={"micro_batch": rows})
        config = config.model_copy(update={"model": model, "train": train})
        batch = batch_of(config, padded=True)
        batch["loss_mask"] *= batch["attention_mask"]
        batch["token_types"] *= batch["attention_mask"]
        if task == "match":
            del batch["sentence_order"]
        samples = [{name: each[row].numpy() for name, each in batch.items()} for row in range(rows)]
        packed = load_batch(samples, range(rows), torch.device("cpu"))
        lengths, predicted = packed["lengths"].tolist(), len(packed["masked_positions"])
        flops = unpadded_flops(config, lengths, rows, predicted)
        assert flops.hardware == pytest.approx(counted_flops(config, packed), rel=5e-3), config.model
        assert flops.tokens == int(batch["attention_mask"].sum())


def of_length(config, length):
    return config.model_copy(update={"train": config.train.model_copy(update={"sequence_length": length})})
