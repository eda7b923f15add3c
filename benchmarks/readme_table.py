"""Write README's table of ratios: `python -m benchmarks.readme_table RESULT.json`, a result of `make bench`.

A line is one stage beside one peer: the lowest and the highest ratio of its cases, with one and two threads.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measurements import Measurement, times
from benchmarks.suite import RESULTS, ROOT, load

README = ROOT / "README.md"
BEGIN, END = "<!-- table: benchmarks/readme_table.py -->\n", "<!-- end of the table -->\n"
HEAD = "| stage | beside | times as fast |\n|---|---|---|\n"
TOKENIZING = "tokenizers, CPU seconds per megabyte"
# The stage as README calls it; part and peer of its measurements, which are also shown as "beside".
LINES = (
    ("training step", "training step", "transformers"),
    ("training step; 1x is the limit", "training step", "its matrix products alone"),
    ("memory of a training step, times as little", "peak memory of a step", "transformers"),
    ("compiled operators", "operator, forward and backward", "PyTorch's composition"),
    ("DeepSpeed engine", "engine overhead per step", "a bare loop, flat AdamW"),
    ("two processes on two cores", "two processes", "one process"),
    (
        "fine-tuning a classifier",
        "fine-tuning a BERT of 6 x 384 on QQP",
        "transformers' Trainer, padded dynamically",
    ),
    ("tokenizing, GPT English", TOKENIZING, "tiktoken"),
    ("tokenizing, BERT English", TOKENIZING, "HF tokenizers, encode_batch_fast"),
    ("tokenizing, GPT Chinese", TOKENIZING, "jieba + sentencepiece"),
    ("finding near-duplicates", "near-duplicates", "rensa"),
    ("reading a corpus", "reading a corpus", "a loop over slices of a memory map"),
    ("generating text", "seconds per generated token", "transformers"),
    ("saving a checkpoint", "checkpoint", "torch.save with one fsync"),
)


def table(measurements: Iterable[Measurement]) -> str:
    """The lines whose measurements are there."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for each in measurements:
        if not each.case.endswith(", first time"):
            ratios.setdefault((each.part, each.peer), []).append(each.ratio)
    return HEAD + "".join(
        f"| {stage} | {peer} | {_range(ratios[part, peer])} |\n"
        for stage, part, peer in LINES
        if (part, peer) in ratios
    )


def _range(ratios: list[float]) -> str:
    low, high = times(min(ratios)), times(max(ratios))
    return low if low == high else f"{low} to {high}"


def readme(result: Path) -> str:
    """README with the table of a result file."""
    page = README.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    link = result.resolve().relative_to(ROOT).with_suffix(".md").as_posix()
    text = f"Cases, spreads, machine and versions: [{link}]({link})."
    return f"{before}{BEGIN}\n{table(load(result).values())}\n{text}\n\n{END}{after}"


def committed_results() -> list[Path]:
    """The result files of this repository, one for each machine."""
    return sorted(RESULTS.glob("*.json"))


def main() -> None:
    """Write README's table."""
    if len(sys.argv) != 2 or not (path := Path(sys.argv[1])).is_file():
        raise SystemExit("usage: python -m benchmarks.readme_table benchmarks/results/MACHINE.json")
    README.write_text(readme(path), encoding="utf-8")


if __name__ == "__main__":
    main()
