"""Draw docs/demo.svg from a finished demo: `make demo && .venv/bin/python docs/draw_demo.py demo/run`."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt

run = Path(sys.argv[1])
with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
train = [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]
validation = [(row["step"], row["loss"]) for row in rows if row["kind"] == "validation"]
command = [sys.executable, "-m", "fpm_cli", "evaluate", "lm", str(run), "--json"]
score = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

plt.rcParams["svg.hashsalt"] = "fpm"  # the same run draws the same file
figure, axes = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
axes.plot(*zip(*train, strict=True), color="#9bb8d3", linewidth=0.8, label="training loss, each step")
axes.plot(*zip(*validation, strict=True), "o-", color="#1f4e79", label="validation loss")
level = score["unigram_entropy"]
axes.axhline(level, color="#b03a2e", linestyle="--", linewidth=1)
axes.annotate(
    f"unigram entropy {level:.2f}", (train[-1][0], level), (0, 4), textcoords="offset points", ha="right"
)
axes.annotate(f"{score['loss']:.2f}", validation[-1], (6, -10), textcoords="offset points", color="#1f4e79")
axes.set(
    xlabel="optimizer step",
    ylabel="nats per token",
    title=f"{score['model']} --proxy: 128 layers on a laptop",
)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="upper right")
figure.savefig(Path(__file__).with_name("demo.svg"), metadata={"Date": None})
