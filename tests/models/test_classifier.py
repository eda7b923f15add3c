"""Packed streams give what padded batches give, and the heads what transformers' classifiers give."""

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.interop.architectures import ARCHITECTURES
from fpm_cli.interop.weight_mapping import to_transformers
from fpm_cli.models.bert import BERT
from fpm_cli.models.build import build_model
from fpm_cli.models.classifier import LOSS, Classifier, build_classifier, load_backbone
from fpm_cli.ops import attention
from fpm_cli.ops.attention import Packing
from tests.small_models import close, randomised, small

LENGTHS = (3, 3, 4, 9, 9, 9, 17)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def padded(stream: Tensor, fill: int = 0) -> Tensor:
    """(T,) -> (n, S)."""
    parts = stream.split(list(LENGTHS))  # type: ignore[no-untyped-call]
    return nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=fill)


def inputs() -> dict[str, Tensor]:
    torch.manual_seed(7)
    count = sum(LENGTHS)
    return {
        "tokens": torch.randint(1, 97, (count,)),
        "token_types": torch.randint(0, 2, (count,)),
        "lengths": torch.tensor(LENGTHS),
        "labels": LABELS,
    }


def mask() -> Tensor:
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("norm", ["pre", "post", "deepnorm"])
@pytest.mark.parametrize("attend", ["grouped_attention", "jagged_attention"])
def test_packed_bert_is_padded_bert(norm: str, attend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "grouped_attention", getattr(attention, attend))
    config = small("BERT-C", "model.num_layers=3", f"model.norm_placement={norm}")
    model = randomised(build_model(config), 0)
    assert isinstance(model, BERT)
    batch, real = inputs(), mask()
    packing = Packing(LENGTHS)
    ours = model.encode_packed(batch["tokens"], batch["token_types"], packing)
    (ours.hidden.square().mean() + ours.pooled.mean()).backward()
    packed_gradients = gradients(model)
    theirs = model.encode(padded(batch["tokens"]), padded(batch["token_types"]), real)
    (theirs.hidden[real].square().mean() + theirs.pooled.mean()).backward()
    close(ours.hidden, theirs.hidden[real])
    close(ours.pooled, theirs.pooled)
    reference = gradients(model)
    assert packed_gradients.keys() == reference.keys() and len(reference) > 30
    for name, gradient in reference.items():
        close(packed_gradients[name], gradient)


def test_a_sequence_does_not_see_its_neighbours_in_the_stream() -> None:
    model = randomised(build_model(small("BERT-C", "model.num_layers=2")), 0)
    assert isinstance(model, BERT)
    batch, ends = inputs(), list(accumulate(LENGTHS))
    packing = Packing(LENGTHS)
    before = model.encode_packed(batch["tokens"], batch["token_types"], packing).pooled
    batch["tokens"][ends[3] : ends[4]] = 5
    after = model.encode_packed(batch["tokens"], batch["token_types"], packing).pooled
    others = [row for row in range(len(LENGTHS)) if row != 4]
    assert before[others].equal(after[others])
    assert not before[4].equal(after[4])


def classifier(config: RunConfig) -> Classifier:
    model = randomised(build_classifier(config, 3), 1)
    assert isinstance(model, Classifier)
    return model


def as_theirs(config: RunConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors under transformers' names; heads for pretraining are gone."""
    return to_transformers(
        (p for p in ARCHITECTURES[config.family](config.model).mappings if p.ours in ours), ours
    )


def into(theirs: nn.Module, ours: Classifier, config: RunConfig, head: str) -> None:
    """Copy our weights, head included, into a model of transformers."""
    state = as_theirs(config, {name: p.detach() for name, p in ours.backbone.named_parameters()})
    missing = theirs.load_state_dict(state, strict=False).missing_keys
    assert all(name.startswith(head) or name.endswith("position_ids") for name in missing)
    layer = getattr(theirs, head)
    layer.weight.data.copy_(ours.classifier.weight)
    if layer.bias is None:
        ours.classifier.bias.data.zero_()
    else:
        layer.bias.data.copy_(ours.classifier.bias)


@pytest.mark.parametrize(
    ("norm", "architecture"),
    [("post", "BertForSequenceClassification"), ("pre", "MegatronBertForSequenceClassification")],
)
def test_bert_classifies_as_transformers_does(norm: str, architecture: str) -> None:
    import transformers

    config = small("BERT-C", "model.num_layers=3", f"model.norm_placement={norm}")
    ours = classifier(config)
    document = dict(ARCHITECTURES["bert"](config.model).config)
    kind = transformers.BertConfig if norm == "post" else transformers.MegatronBertConfig
    document.pop("model_type")
    theirs: Any = getattr(transformers, architecture)(kind(**document, num_labels=3)).eval()
    into(theirs, ours, config, "classifier")
    batch = inputs()
    expected = theirs(
        input_ids=padded(batch["tokens"]),
        token_type_ids=padded(batch["token_types"]),
        attention_mask=mask().long(),
        labels=LABELS,
    )
    loss = ours(batch)[LOSS] / ours.num_predictions(batch)[LOSS]
    close(ours.logits(batch), expected.logits)
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    found = as_theirs(config, gradients(ours.backbone))
    reference = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert {name for name in reference if not name.startswith("classifier")} == found.keys()
    for name, gradient in found.items():
        close(gradient, reference[name])


def test_gpt_classifies_as_transformers_does() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = small("CPM-X-S", "model.num_layers=3", "model.max_positions=29", "train.sequence_length=23")
    ours = classifier(config)
    sizes = {"n_positions": 29, "n_embd": 48, "n_layer": 3, "n_head": 3, "n_inner": 112}
    theirs = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=97, num_labels=3, pad_token_id=0, **sizes)
    ).eval()
    into(theirs, ours, config, "score")
    batch = inputs()
    del batch["token_types"]
    expected = theirs(input_ids=padded(batch["tokens"]), attention_mask=mask().long(), labels=LABELS)
    close(ours.logits(batch), expected.logits)
    close(ours(batch)[LOSS] / len(LENGTHS), expected.loss)


def test_the_encoder_decoder_classifies_t5s_first_step() -> None:
    from transformers import T5Config, T5Model

    config = small("CPM-2-X-S", "model.num_layers=4")
    ours = classifier(config)
    sizes = {"d_model": 48, "d_kv": 16, "d_ff": 112, "num_layers": 2, "num_heads": 3}
    t5 = T5Config(vocab_size=97, feed_forward_proj="gated-gelu", **sizes)
    theirs = T5Model(t5).eval()
    weights = as_theirs(config, {name: p.detach() for name, p in ours.backbone.named_parameters()})
    assert not [n for n in theirs.load_state_dict(weights, strict=False).missing_keys if "embed" not in n]
    tokens, start = padded(inputs()["tokens"]), torch.full((len(LENGTHS), 1), 4)
    batch = {"encoder_tokens": tokens, "encoder_mask": mask(), "decoder_tokens": start, "labels": LABELS}
    states = theirs(input_ids=tokens, attention_mask=mask().long(), decoder_input_ids=start)
    close(ours.logits(batch), ours.classifier(states.last_hidden_state[:, 0]))


def test_pretrained_weights_go_under_the_head() -> None:
    config = small("BERT-C", "model.num_layers=2")
    pretrained, model = randomised(build_model(config), 3), classifier(config)
    head = model.classifier.weight.clone()
    assert load_backbone(model, dict(pretrained.state_dict())) == ()
    assert all(
        model.backbone.state_dict()[n].equal(w) for n, w in pretrained.state_dict().items() if "head" not in n
    )
    assert model.classifier.weight.equal(head)


def test_layers_learn_less_the_lower_they_stand() -> None:
    from fpm_cli.engine.optimizer import LR_SCALE, parameter_groups

    config = small("BERT-C", "model.num_layers=3", "train.lr_depth_scaled=false", "train.layer_lr_decay=0.5")
    model = classifier(config)
    share = {p: group[LR_SCALE] for group in parameter_groups(model, config) for p in group["params"]}
    found = {name: share[p] for name, p in model.named_parameters()}
    assert found["classifier.weight"] == found["backbone.pooler.weight"] == 1
    layers = [found[f"backbone.encoder.layers.{n}.mlp.norm.weight"] for n in range(3)]
    assert layers == [0.25, 0.5, 1]
    assert found["backbone.token_embedding.weight"] == 0.125
