"""A network of any family with a classification head instead of its pretraining heads.

| family | features that are classified |
|---|---|
| bert   | the pooled `[CLS]`; the pretrained pooler is kept (Devlin et al. 2019, section 4.1); or, with |
|        | `finetune.pooling = "mean"`, the mean of all positions (Reimers and Gurevych, arXiv 1908.10084), |
|        | or, with `"compare"`, the means u and v of a pair's texts, scaled to unit mean square, as |
|        | u, v, abs(u - v) and u * v (Conneau et al., arXiv 1705.02364, section 3.1) |
| gpt    | the last token's hidden state (Radford et al. 2018, section 3.2) |
| encdec | the decoder's first step, whose input is `<s>` alone: the position from which T5 would |
|        | generate the label (Raffel et al. 2020, section 2.4) |

Then dropout and one linear layer. BERT and GPT take packed streams, without padding; the encoder-decoder,
whose relative position bias is computed for a square of positions, takes padded batches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.models.bert import BERT
from fpm_cli.models.build import FAMILIES, materialise, set_recompute
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.ops.attention import Packing

PRETRAINING_HEADS = ("mlm_head", "sentence_order_head", "head")
LOSS = "classification"


class Classifier(nn.Module):
    """Batch -> the summed loss `classification`; `logits(batch)` gives (n, num_labels).

    A batch of n sequences has `labels` (n,): classes as int64, or values as float32, for which the network
    has one output and the loss is the squared error. The other inputs are int64:
      - gpt and bert: `tokens` (T,) end to end and `lengths` (n,); bert also `token_types` (T,) and
        `first_lengths` (n,), how many of a sequence's tokens come before its second text
      - encdec: `encoder_tokens` (n, S), `encoder_mask` (n, S) bool and `decoder_tokens` (n, 1)
    """

    def __init__(self, config: RunConfig, num_labels: int, label_smoothing: float = 0.0):
        super().__init__()
        self.backbone = FAMILIES[config.family](config.model)
        for name in PRETRAINING_HEADS:
            if hasattr(self.backbone, name):
                delattr(self.backbone, name)
        self.pooling = config.finetune.pooling if config.finetune else "default"
        if self.pooling != "default":
            delattr(self.backbone, "pooler")
        self.dropout = nn.Dropout(config.model.dropout)
        width = config.model.hidden_size * (4 if self.pooling == "compare" else 1)
        self.classifier = nn.Linear(width, num_labels)
        self.label_smoothing = label_smoothing

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """(n, num_labels)."""
        logits: Tensor = self.classifier(self.dropout(self._features(batch)))
        return logits

    def _features(self, batch: dict[str, Tensor]) -> Tensor:
        """The features of each sequence: (n, H), or (n, 4H) where texts are compared."""
        network = self.backbone
        if isinstance(network, EncoderDecoder):
            mask = batch.get("encoder_mask")
            memory = network.encode(batch["encoder_tokens"], mask)
            return network.decode_hidden(batch["decoder_tokens"], memory, mask)[:, 0]
        packing = Packing(tuple(batch["lengths"].tolist()))
        if isinstance(network, BERT):
            if self.pooling == "default":
                return network.encode_packed(batch["tokens"], batch["token_types"], packing).pooled
            hidden = network.hidden_packed(batch["tokens"], batch["token_types"], packing)
            if self.pooling == "mean":
                return packing.mean(hidden)
            return pair_features(hidden, batch["first_lengths"], batch["lengths"])
        assert isinstance(network, GPT)
        return packing.last(network.hidden_packed(batch["tokens"], packing))

    def forward(self, batch: dict[str, Tensor], *, predicts: bool = False) -> dict[str, Tensor]:
        """The summed cross-entropy in float32 and nats; of values, the summed squared error.

        With `predicts` instead the `logits` (n, num_labels): under ZeRO 3 all passes must come through here.
        """
        if predicts:
            return {"logits": self.logits(batch)}
        if batch["labels"].is_floating_point():
            values = self.logits(batch).float()[:, 0]
            return {LOSS: F.mse_loss(values, batch["labels"], reduction="sum")}
        loss = F.cross_entropy(
            self.logits(batch).float(),
            batch["labels"],
            reduction="sum",
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )
        return {LOSS: loss}

    @staticmethod
    def num_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of predictions that the loss of `forward` sums."""
        return {LOSS: torch.full((), float(len(batch["labels"])), device=batch["labels"].device)}


def pair_features(hidden: Tensor, first_lengths: Tensor, lengths: Tensor) -> Tensor:
    """The means u and v of each pair's texts, beside abs(u - v) and u * v: (T, H) -> (n, 4H)."""
    texts = torch.stack([first_lengths, lengths - first_lengths], dim=1)  # (n, 2)
    means = Packing(tuple(texts.flatten().tolist())).mean(hidden)  # (2n, H)
    first, second = F.rms_norm(means, means.shape[1:]).view(len(lengths), 2, -1).unbind(1)
    return torch.cat([first, second, (first - second).abs(), first * second], dim=1)


def build_classifier(
    config: RunConfig, num_labels: int, label_smoothing: float = 0.0, device: torch.device | str = "cpu"
) -> Classifier:
    """The network with initial weights, a pure function of the configuration (its seed included)."""
    with torch.device("meta"):
        skeleton = build_classifier_network(config, num_labels, label_smoothing)
    model = materialise(skeleton, config, device)
    assert isinstance(model, Classifier)
    return model


def build_classifier_network(config: RunConfig, num_labels: int, label_smoothing: float = 0.0) -> Classifier:
    """The network's modules on the default device, with torch's own default values."""
    model = Classifier(config, num_labels, label_smoothing)
    set_recompute(model, config)
    return model


def load_backbone(model: Classifier, weights: dict[str, Tensor]) -> tuple[str, ...]:
    """Load a pretrained network's weights into the backbone; returns the parameters that it lacks.

    Raises:
        RuntimeError: a shape differs.
    """
    backbone = {name: value for name, value in weights.items() if not name.startswith(PRETRAINING_HEADS)}
    return tuple(model.backbone.load_state_dict(backbone, strict=False).missing_keys)
