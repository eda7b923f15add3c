"""The special tokens around a text and a pair of texts, as the network was trained with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fpm_cli.config.schema import Family
from fpm_cli.tokenization.base import Tokenizer


@dataclass(frozen=True)
class SequenceTemplate:
    """Templates in the notation of `tokenizers.processors.TemplateProcessing`.

    `has_token_types`: the second text of a pair has token type 1. `pattern` names the same template for the
    Python tokenizers of transformers.
    """

    single: str = "$A"
    pair: str = "$A $B"
    special_tokens: dict[str, int] = field(default_factory=dict)
    has_token_types: bool = False
    pattern: str = "none"

    def build(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """The ids and token types of a text or a pair."""
        ids: list[int] = []
        types: list[int] = []
        for part in (self.single if second is None else self.pair).split():
            name, _, type_id = part.partition(":")
            if name == "$A":
                new = list(first)
            elif name == "$B":
                new = list(second or ())
            else:
                new = [self.special_tokens[name]]
            ids += new
            types += [int(type_id or 0)] * len(new)
        return ids, types


def sequence_template(tokenizer: Tokenizer, family: Family, *, classifies: bool) -> SequenceTemplate:
    """The template of a family: as in pretraining, or with `classifies` as in `fpm finetune`.

    bert has [CLS] A [SEP] B [SEP] in both; the other families read a text as it is in pretraining, and each
    text with `<eod>` after it in classification.
    """
    special = tokenizer.special
    if family == "bert" and special.cls is not None and special.sep is not None:
        cls, sep = tokenizer.tokens([special.cls, special.sep])
        return SequenceTemplate(
            f"{cls} $A {sep}",
            f"{cls} $A {sep} $B:1 {sep}:1",
            {cls: special.cls, sep: special.sep},
            has_token_types=True,
            pattern="cls_sep",
        )
    if classifies and special.eod is not None:
        (eod,) = tokenizer.tokens([special.eod])
        return SequenceTemplate(f"$A {eod}", f"$A {eod} $B {eod}", {eod: special.eod}, pattern="eos")
    return SequenceTemplate()
