"""Every family agrees with transformers in logits, losses and gradients once weights are copied over."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.interop.architectures import ARCHITECTURES
from fpm_cli.interop.weight_mapping import to_transformers
from fpm_cli.models.bert import BERT
from fpm_cli.models.build import build_model
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from tests.small_models import close, randomised, small

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gpt_is_gpt2(seed: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = small("CPM-X-S", "model.num_layers=3", "model.max_positions=29", "train.sequence_length=23")
    ours = randomised(build_model(config), seed)
    assert isinstance(ours, GPT)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=29, n_embd=48, n_layer=3, n_head=3, n_inner=112)
    ).eval()
    theirs.load_state_dict(renamed(ours, config), strict=False)
    tokens = torch.randint(97, (4, 24))
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": torch.ones(4, 23)}
    loss = ours(batch)["lm"] / ours.num_predictions(batch)["lm"]
    expected = theirs(input_ids=tokens, labels=tokens)
    close(ours.logits(tokens), expected.logits)
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    compare_gradients(renamed(ours, config, gradients=True), theirs)


def test_a_document_is_read_as_if_it_stood_alone() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = small("CPM-X-S", "model.num_layers=3", "model.max_positions=29", "train.sequence_length=23")
    ours = randomised(build_model(config), 0)
    assert isinstance(ours, GPT)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=29, n_embd=48, n_layer=3, n_head=3, n_inner=112)
    ).eval()
    theirs.load_state_dict(renamed(ours, config), strict=False)
    borders = (0, 5, 6, 17, 23)
    tokens, documents = torch.randint(97, (1, 23)), torch.zeros(1, 23, dtype=torch.int64)
    for number, (start, stop) in enumerate(pairwise(borders)):
        documents[0, start:stop] = number
    packed = ours.logits(tokens, documents)
    for start, stop in pairwise(borders):
        close(packed[:, start:stop], theirs(input_ids=tokens[:, start:stop]).logits)


def renamed(model: nn.Module, config: RunConfig, *, gradients: bool = False) -> dict[str, Tensor]:
    """The weights, or their gradients, as transformers names them."""
    values = {name: p.grad if gradients else p.detach() for name, p in model.named_parameters()}
    present = {name: value for name, value in values.items() if value is not None}
    return to_transformers(ARCHITECTURES[config.family](config.model).mappings, present)


def compare_gradients(ours: dict[str, Tensor], theirs: nn.Module) -> None:
    parameters = dict(theirs.named_parameters())
    compared = [name for name in ours if name in parameters]
    assert len(compared) == len([p for p in parameters.values() if p.grad is not None])
    for name in compared:
        grad = parameters[name].grad
        assert grad is not None
        close(ours[name], grad)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("seed", [0, 1])
def test_bert_is_bert_in_post_norm_and_megatron_bert_in_pre_norm(norm: str, seed: int) -> None:
    from transformers import (
        BertConfig,
        BertForPreTraining,
        MegatronBertConfig,
        MegatronBertForPreTraining,
    )

    config = small(
        "BERT-C",
        *("model.num_layers=3", "model.max_positions=31", "train.sequence_length=21"),
        *(f"model.norm_placement={norm}", "model.norm_epsilon=1e-12"),
    )
    ours = randomised(build_model(config), seed)
    assert isinstance(ours, BERT)
    kinds: dict[str, tuple[Any, Any]] = {
        "post": (BertConfig, BertForPreTraining),
        "pre": (MegatronBertConfig, MegatronBertForPreTraining),
    }
    make_config, make = kinds[norm]
    theirs = make(
        make_config(
            vocab_size=97,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=112,
            max_position_embeddings=31,
            layer_norm_eps=1e-12,
        )
    ).eval()
    missing = theirs.load_state_dict(renamed(ours, config), strict=False)
    assert not missing.unexpected_keys

    # Token 0 is padding there, and its embedding gets no gradient.
    tokens, types = torch.randint(1, 97, (5, 21)), torch.randint(2, (5, 21))
    lengths = torch.tensor([21, 20, 13, 7, 3])
    attention = torch.arange(21)[None] < lengths[:, None]
    masked = attention & (torch.rand(5, 21) < 0.3)
    masked[:, 1] = True
    labels, order = torch.randint(97, (5, 21)), torch.randint(2, (5,))
    batch = {
        "tokens": tokens,
        "token_types": types,
        "attention_mask": attention,
        "labels": labels,
        "loss_mask": masked.float(),
        "sentence_order": order,
    }
    expected = theirs(
        input_ids=tokens,
        token_type_ids=types,
        attention_mask=attention.long(),
        labels=labels.masked_fill(~masked, -100),
        next_sentence_label=order,
    )
    words, orders = ours.logits(tokens, types, attention)
    close(words[attention], expected.prediction_logits[attention])
    close(orders, expected.seq_relationship_logits)
    counts = ours.num_predictions(batch)
    loss = sum(total / counts[name] for name, total in ours(batch).items())
    assert isinstance(loss, Tensor)
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    compare_gradients(renamed(ours, config, gradients=True), theirs)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_encoder_decoder_is_t5_with_gated_gelu_and_an_untied_head(seed: int) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = small("CPM-2-X-S", "model.num_layers=4", "model.num_heads=4")
    ours = randomised(build_model(config), seed)
    assert isinstance(ours, EncoderDecoder)
    theirs = T5ForConditionalGeneration(
        T5Config(
            vocab_size=97,
            d_model=48,
            d_kv=16,
            d_ff=112,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    ).eval()
    # transformers 5 ties the head whatever the configuration says; a head of its own undoes that.
    theirs.lm_head = nn.Linear(48, 97, bias=False)
    state = renamed(ours, config)
    state |= {f"{stack}.embed_tokens.weight": state["shared.weight"] for stack in ("encoder", "decoder")}
    theirs.load_state_dict(state, strict=True)

    encoder_tokens, decoder_tokens = torch.randint(97, (3, 40)), torch.randint(97, (3, 17))
    encoder_mask = torch.arange(40)[None] < torch.tensor([40, 33, 5])[:, None]
    labels, scored = torch.randint(97, (3, 17)), torch.rand(3, 17) < 0.8
    batch = {
        "encoder_tokens": encoder_tokens,
        "encoder_mask": encoder_mask,
        "decoder_tokens": decoder_tokens,
        "labels": labels,
        "loss_mask": scored.float(),
    }
    expected = theirs(
        input_ids=encoder_tokens,
        attention_mask=encoder_mask.long(),
        decoder_input_ids=decoder_tokens,
        labels=labels.masked_fill(~scored, -100),
    )
    logits = ours.decode(decoder_tokens, ours.encode(encoder_tokens, encoder_mask), encoder_mask)
    close(logits, expected.logits)
    loss = ours(batch)["lm"] / ours.num_predictions(batch)["lm"]
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    compare_gradients(renamed(ours, config, gradients=True), theirs)


def test_relative_position_buckets_are_t5s() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    from fpm_cli.models.encdec import MAX_DISTANCE, NUM_BUCKETS, RelativePositionBias

    offsets = torch.arange(-700, 701)
    for bidirectional in (True, False):
        ours = RelativePositionBias(1, bidirectional=bidirectional)._bucket(offsets)
        theirs = T5Attention._relative_position_bucket(offsets, bidirectional, NUM_BUCKETS, MAX_DISTANCE)
        assert torch.equal(ours, theirs)
