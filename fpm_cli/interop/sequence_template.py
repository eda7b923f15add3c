"""The special tokens around a text and a pair of texts, as the network was trained with them."""

from collections.abc import Sequence
from dataclasses import dataclass

from fpm_cli.config.schema import Family
from fpm_cli.tokenization.base import Tokenizer


@dataclass(frozen=True)
class SequenceTemplate:
    """The special tokens before the first text and after each text, by name and id.

    `has_token_types`: the second text of a pair has token type 1, and so has the token after it.
    """

    before: tuple[tuple[str, int], ...] = ()
    after: tuple[tuple[str, int], ...] = ()
    has_token_types: bool = False

    @property
    def special_tokens(self) -> dict[str, int]:
        """All special tokens, by name."""
        return dict((*self.before, *self.after))

    @property
    def single(self) -> str:
        """A text in the notation of `tokenizers.processors.TemplateProcessing`."""
        return " ".join([*(name for name, _ in self.before), "$A", *(name for name, _ in self.after)])

    @property
    def pair(self) -> str:
        """A pair of texts in the same notation."""
        kind = ":1" if self.has_token_types else ""
        return " ".join([self.single, f"$B{kind}", *(f"{name}{kind}" for name, _ in self.after)])

    def build(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """The ids and token types of a text or a pair."""
        after = [token for _, token in self.after]
        ids = [*(token for _, token in self.before), *first, *after]
        types = [0] * len(ids)
        if second is not None:
            ids += [*second, *after]
            types += [1] * (len(ids) - len(types))
        return ids, types


def sequence_template(tokenizer: Tokenizer, family: Family, *, classifies: bool) -> SequenceTemplate:
    """The template of a family: as in pretraining, or with `classifies` as in `fpm finetune`.

    bert has [CLS] A [SEP] B [SEP] in both; the other families read a text as it is in pretraining, and each
    text with `<eod>` after it in classification.
    """
    special = tokenizer.special
    if family == "bert" and special.cls is not None and special.sep is not None:
        cls, sep = tokenizer.tokens([special.cls, special.sep])
        return SequenceTemplate(((cls, special.cls),), ((sep, special.sep),), has_token_types=True)
    if classifies and special.eod is not None:
        (eod,) = tokenizer.tokens([special.eod])
        return SequenceTemplate(after=((eod, special.eod),))
    return SequenceTemplate()
