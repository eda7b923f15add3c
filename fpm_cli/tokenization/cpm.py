"""What CPM's vocabularies share: the first eight ids, the marks for space and newline, the sentinels."""

from fpm_cli.tokenization.base import SpecialTokens

SPACE, NEWLINE = "\u2582", "\u2583"
TO_MARKS = str.maketrans({" ": SPACE, "\n": NEWLINE})
FROM_MARKS = str.maketrans({SPACE: " ", NEWLINE: "\n"})

SPECIALS = ("<unk>", "<s>", "</s>", NEWLINE, "<sep>", "<pad>", "<mask>", "<eod>")
NUM_SENTINELS = 190  # span corruption's; the last ids of a T5 vocabulary
SENTINELS = tuple(f"<s_{index}>" for index in range(NUM_SENTINELS))


def special_ids(pieces: list[str]) -> SpecialTokens:
    """The special tokens of a CPM vocabulary, given its pieces in the order of their ids.

    Raises ValueError if ids 0 to 7 are not CPM's. Sentinels are those that the vocabulary has.
    """
    if tuple(pieces[: len(SPECIALS)]) != SPECIALS:
        raise ValueError(f"ids 0 to 7 are {' '.join(pieces[:8])}, not CPM's {' '.join(SPECIALS)}")
    ids = {piece: i for i, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        raise ValueError("a piece occurs twice")
    sentinels = tuple(ids[name] for name in SENTINELS if name in ids)
    return SpecialTokens(unk=0, bos=1, eos=2, sep=4, pad=5, mask=6, eod=7, sentinels=sentinels)


def t5_vocabulary(trained: list[str], marks: tuple[str, ...]) -> list[str]:
    """A T5 vocabulary in the order of its ids: specials, marks, trained pieces, sentinels."""
    fixed = {*SPECIALS, *marks}
    return [*SPECIALS, *marks, *(piece for piece in trained if piece not in fixed), *SENTINELS]
