"""Writes the titles of TNEWS files to stdout as text for `fpm build-corpus`: each once, without labels.

Each title becomes a document of several lines, because BERT's second objective splits a document
between lines.

python titles.py train.tsv dev.json test.json ... > titles.txt
"""

import json
import sys
from pathlib import Path

import jieba

MIDDLE = (0.3, 0.7)


def titles(path: Path) -> list[str]:
    """The titles of a JSON lines file (`sentence`) or of a table whose first column they are."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    if path.suffix == ".json":
        return [json.loads(line)["sentence"] for line in lines if line.strip()]
    return [line.split("\t")[0] for line in lines]


def split_in_lines(title: str) -> str:
    """The title with a line break before each word that begins in its middle."""
    lower, upper = (share * len(title) for share in MIDDLE)
    lines, place = [""], 0
    for word in jieba.cut(title):
        if place and lower <= place <= upper:
            lines.append("")
        lines[-1] += word
        place += len(word)
    if len(lines) == 1:  # one word across the middle
        half = max(1, len(title) // 2)
        lines = [title[:half], title[half:]]
    return "\n".join(line.strip() for line in lines)


def main() -> None:
    """A blank line after each title, so that each is a document."""
    spaced = [" ".join(title.split()) for name in sys.argv[1:] for title in titles(Path(name))]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for title in dict.fromkeys(spaced):
        if len(title) > 1:
            sys.stdout.write(f"{split_in_lines(title)}\n\n")


if __name__ == "__main__":
    main()
