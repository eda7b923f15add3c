import random

import pytest
import torch

from fpm_cli.accounting.activations import SavedActivations
from fpm_cli.accounting.compiled_activations import CompiledActivations
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.models.blocks import Stack
from fpm_cli.models.build import build_model

PRESET = {"gpt": "CPM-X-S", "bert": "BERT-C", "encdec": "CPM-2-X-S"}


def bytes_that_autograd_saves(config):
    """Distinct storages that the forward pass keeps for the backward pass, parameters aside.

    Recomputed layers also keep their attention context, which no hook of saved tensors sees.
    """
    model = build_model(config)
    ours = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    def record_context(_module, inputs):
        context = inputs[1]
        for tensor in (
            context.mask,
            context.memory,
            context.memory_mask,
            context.bias if context.compiled else None,
        ):
            if tensor is not None:
                pack(tensor)

    if config.engine.recompute == "full":
        for stack in (module for module in model.modules() if isinstance(module, Stack)):
            stack.layers[0].register_forward_pre_hook(record_context)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(model(synthetic_batch(config, config.train.micro_batch)).values())
    assert loss.requires_grad
    return sum(size for size, _ in kept.values())


def random_config(family, rng):
    sizes = {
        "model.num_layers": rng.choice([2, 4, 6]),
        "model.hidden_size": rng.choice([32, 64, 96]),
        "model.num_heads": rng.choice([1, 2, 4]),
        "model.head_size": rng.choice([8, 16, 32]),
        "model.ffn_size": rng.choice([64, 160, 256]),
        "model.vocab_size": rng.randrange(100, 2000),
        "model.dropout": rng.choice([0.0, 0.1]),
        "model.norm_placement": rng.choice(["pre", "deepnorm"]),
        "train.sequence_length": rng.randrange(16, 128),
        "model.max_positions": 0 if family == "encdec" else 128,
        "train.micro_batch": rng.randrange(1, 9),
        "engine.recompute": rng.choice(["none", "selective", "full"]),
    }
    if family == "encdec":
        sizes["train.decoder_length"] = rng.randrange(8, 64)
    assignments = [f"{key}={value}" for key, value in sizes.items()]
    return resolve(PRESET[family], proxy=True, environment={}, assignments=assignments).config


@pytest.mark.parametrize("family", PRESET)
@pytest.mark.parametrize("operators", ["reference", "compiled"])
def test_the_structure_gives_what_autograd_saves(request, operators, family):
    request.getfixturevalue(operators)
    kind = CompiledActivations if operators == "compiled" else SavedActivations
    rng = random.Random(family)
    for _ in range(30):
        config = random_config(family, rng)
        counted = kind(config, element_bytes=4, micro_batch=config.train.micro_batch, cpu=True).total()
        assert counted == pytest.approx(bytes_that_autograd_saves(config), rel=0.01), config
