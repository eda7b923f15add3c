"""Writes the titles of TNEWS files to stdout as text for `fpm build-corpus`: each once, no labels.

Each title becomes a document of two lines, since a BERT corpus is one of sentences whose order is to be told.

python titles.py train.tsv dev.json test.json ... > titles.txt
"""

import json
import re
import sys
from pathlib import Path


def titles(path: Path) -> list[str]:
    """The titles of a JSON lines file (`sentence`) or of a table whose first column they are."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    if path.suffix == ".json":
        return [json.loads(line)["sentence"] for line in lines if line.strip()]
    return [line.split("\t")[0] for line in lines]


def in_two(title: str) -> str:
    """The title with a line break after the clause that ends nearest its middle, or else in its middle."""
    middle = len(title) / 2
    ends = [match.end() for match in re.finditer("[，。！？：；、…,!?:; |]+", title)]
    inner = [end for end in ends if end < len(title)]
    end = min(inner, key=lambda place: abs(place - middle), default=int(middle))
    return f"{title[:end].strip()}\n{title[end:].strip()}"


def main() -> None:
    """A blank line after each title, so that each is a document."""
    spaced = [" ".join(title.split()) for name in sys.argv[1:] for title in titles(Path(name))]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for title in dict.fromkeys(spaced):
        if len(title) > 1:
            sys.stdout.write(f"{in_two(title)}\n\n")


if __name__ == "__main__":
    main()
