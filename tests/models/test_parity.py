"""Every family agrees with transformers in logits, losses and gradients once weights are copied over."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.models.bert import BERT
from fpm_cli.models.build import build_model
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT

TOLERANCE = 1e-5

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def small(name: str, *assignments: str) -> RunConfig:
    """Odd sizes, so that a transposed or mixed-up dimension cannot hide."""
    sizes = ("model.vocab_size=97", "model.hidden_size=48", "model.num_heads=3", "model.head_size=16")
    return resolve(
        name, proxy=True, environment={}, assignments=[*sizes, "model.ffn_size=112", *assignments]
    ).config


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Norms and biases too, which start at 0 and 1 and would hide a mistake."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max().item() < TOLERANCE


def thirds(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.chunk(3, dim=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gpt_is_gpt2(seed: int) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = small("CPM-X-S", "model.num_layers=3", "model.max_positions=29", "train.sequence_length=23")
    ours = randomised(build_model(config), seed)
    assert isinstance(ours, GPT)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=29, n_embd=48, n_layer=3, n_head=3, n_inner=112)
    ).eval()
    theirs.load_state_dict(gpt2_state(ours), strict=False)
    tokens = torch.randint(97, (4, 24))
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": torch.ones(4, 23)}
    loss = ours(batch)["lm"] / ours.num_predictions(batch)["lm"]
    expected = theirs(input_ids=tokens, labels=tokens)
    close(ours.logits(tokens), expected.logits)
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    compare_gradients(gpt2_state(ours, gradients=True), theirs)


def gpt2_state(model: GPT, *, gradients: bool = False) -> dict[str, Tensor]:
    state = values(model, gradients)
    named = {
        "transformer.wte.weight": state["tokens.weight"],
        "transformer.wpe.weight": state["positions.weight"],
    }
    named |= {f"transformer.ln_f.{kind}": state[f"decoder.final_norm.{kind}"] for kind in ("weight", "bias")}
    pairs = {
        "attention.norm": "ln_1",
        "attention.branch.query_key_value": "attn.c_attn",
        "attention.branch.out": "attn.c_proj",
        "mlp.norm": "ln_2",
        "mlp.branch.up": "mlp.c_fc",
        "mlp.branch.down": "mlp.c_proj",
    }
    for layer in range(len(model.decoder.layers)):
        for ours, theirs in pairs.items():
            weight = state[f"decoder.layers.{layer}.{ours}.weight"]
            named[f"transformer.h.{layer}.{theirs}.weight"] = weight.T if weight.dim() == 2 else weight
            named[f"transformer.h.{layer}.{theirs}.bias"] = state[f"decoder.layers.{layer}.{ours}.bias"]
    return named


def values(model: nn.Module, gradients: bool) -> dict[str, Tensor]:
    if gradients:
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: p.detach() for name, p in model.named_parameters()}


def compare_gradients(ours: dict[str, Tensor], theirs: nn.Module) -> None:
    parameters = dict(theirs.named_parameters())
    compared = [name for name in ours if name in parameters]
    assert len(compared) == len([p for p in parameters.values() if p.grad is not None])
    for name in compared:
        grad = parameters[name].grad
        assert grad is not None
        close(ours[name], grad)


def bert_state(model: BERT, *, gradients: bool = False) -> dict[str, Tensor]:
    """Our names to those of `BertForPreTraining` (post-LN) and `MegatronBertForPreTraining` (pre-LN)."""
    state, pre = values(model, gradients), not isinstance(model.embedding_norm, nn.LayerNorm)
    named = {
        "bert.embeddings.word_embeddings.weight": state["tokens.weight"],
        "bert.embeddings.position_embeddings.weight": state["positions.weight"],
        "bert.embeddings.token_type_embeddings.weight": state["token_types.weight"],
        "cls.predictions.bias": state["mlm_head.bias"],
    }
    pairs = {
        "pooler": "bert.pooler.dense",
        "mlm_head.dense": "cls.predictions.transform.dense",
        "mlm_head.norm": "cls.predictions.transform.LayerNorm",
        "sentence_order_head": "cls.seq_relationship",
        **(
            {"encoder.final_norm": "bert.encoder.ln"}
            if pre
            else {"embedding_norm": "bert.embeddings.LayerNorm"}
        ),
    }
    norms = ("attention.ln", "ln") if pre else ("attention.output.LayerNorm", "output.LayerNorm")
    for layer in range(len(model.encoder.layers)):
        ours, theirs = f"encoder.layers.{layer}", f"bert.encoder.layer.{layer}"
        pairs |= {
            f"{ours}.attention.norm": f"{theirs}.{norms[0]}",
            f"{ours}.attention.branch.out": f"{theirs}.attention.output.dense",
            f"{ours}.mlp.norm": f"{theirs}.{norms[1]}",
            f"{ours}.mlp.branch.up": f"{theirs}.intermediate.dense",
            f"{ours}.mlp.branch.down": f"{theirs}.output.dense",
        }
        for kind in ("weight", "bias"):
            packed = thirds(state[f"{ours}.attention.branch.query_key_value.{kind}"])
            for name, part in zip(("query", "key", "value"), packed, strict=True):
                named[f"{theirs}.attention.self.{name}.{kind}"] = part
    for mine, other in pairs.items():
        named |= {f"{other}.{kind}": state[f"{mine}.{kind}"] for kind in ("weight", "bias")}
    return named


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
    missing = theirs.load_state_dict(bert_state(ours), strict=False)
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
    compare_gradients(bert_state(ours, gradients=True), theirs)


def t5_state(model: EncoderDecoder, *, gradients: bool = False) -> dict[str, Tensor]:
    state = values(model, gradients)
    named = {"shared.weight": state["tokens.weight"], "lm_head.weight": state["head.weight"]}
    for stack in ("encoder", "decoder"):
        named[f"{stack}.final_layer_norm.weight"] = state[f"{stack}.final_norm.weight"]
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        named[first] = state[f"{stack}_bias.table.weight"]
        last = 1 if stack == "encoder" else 2
        for layer in range(len(getattr(model, stack).layers)):
            ours, theirs = f"{stack}.layers.{layer}", f"{stack}.block.{layer}.layer"
            packed = thirds(state[f"{ours}.attention.branch.query_key_value.weight"])
            named |= {
                f"{theirs}.0.SelfAttention.{n}.weight": part for n, part in zip("qkv", packed, strict=True)
            }
            pairs = {
                "attention.branch.out": "0.SelfAttention.o",
                "attention.norm": "0.layer_norm",
                "mlp.norm": f"{last}.layer_norm",
                "mlp.branch.gate": f"{last}.DenseReluDense.wi_0",
                "mlp.branch.up": f"{last}.DenseReluDense.wi_1",
                "mlp.branch.down": f"{last}.DenseReluDense.wo",
            }
            if stack == "decoder":
                pairs |= {
                    "cross_attention.branch.query": "1.EncDecAttention.q",
                    "cross_attention.branch.out": "1.EncDecAttention.o",
                    "cross_attention.norm": "1.layer_norm",
                }
                keys, vals = state[f"{ours}.cross_attention.branch.key_value.weight"].chunk(2)
                named |= {
                    f"{theirs}.1.EncDecAttention.k.weight": keys,
                    f"{theirs}.1.EncDecAttention.v.weight": vals,
                }
            named |= {
                f"{theirs}.{other}.weight": state[f"{ours}.{mine}.weight"] for mine, other in pairs.items()
            }
    return named


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
    state = t5_state(ours)
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
    compare_gradients(t5_state(ours, gradients=True), theirs)


def test_relative_position_buckets_are_t5s() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    from fpm_cli.models.encdec import MAX_DISTANCE, NUM_BUCKETS, RelativeBias

    offsets = torch.arange(-700, 701)
    for bidirectional in (True, False):
        ours = RelativeBias(1, bidirectional=bidirectional)._bucket(offsets)
        theirs = T5Attention._relative_position_bucket(offsets, bidirectional, NUM_BUCKETS, MAX_DISTANCE)
        assert torch.equal(ours, theirs)
