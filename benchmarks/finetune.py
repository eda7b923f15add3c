"""How fast a classifier is fine-tuned, against transformers' Trainer on the same weights and examples.

    python benchmarks/finetune.py --weights DIR --train FILE... --out finetune.json

DIR is a BERT in transformers' format (MiniLM-L6 is a quick one), FILE a training file of QQP; Trainer needs
accelerate. One process, one thread: first the losses of all three ways on the same examples with dropout 0,
which must agree to 1e-5; then optimizer steps over the same batches in the same order: fpm's packed ones
through its DeepSpeed engine, and Trainer's, padded to 128 tokens and to the longest of the batch, each
timing in a process of its own. Seconds are the process's CPU time, which other work on the machine disturbs
little; rounds alternate, and each way's best round counts. The arithmetic limit is the ratio of the
positions computed; optimizer and data cost all of them the same.
"""

import sys

if __name__ == "__main__":  # not in the timed processes, which have the parent's path
    sys.path.pop(0)  # this folder: a file in it would hide the standard library's `tokenize`

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.config.batch_split import split_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.world import distributed_world
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.models.classifier import LOSS, Classifier
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.finetune_run import FinetuneRequest, create_run
from fpm_cli.tasks.finetuning import Finetuning

WARM_UP = 1  # steps before the clock starts
WAYS = {"padded to 128": 128, "padded dynamically": None}
TARGETS = {"padded to 128": 3.5, "padded dynamically": 1.8}


def main() -> None:
    """Compare the losses, time all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=5, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0, help="while timing")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", options)
        differences = compare_losses(run, options.weights)
        print("losses differ by", ", ".join(f"{value:.1e} ({way})" for way, value in differences.items()))
        assert max(differences.values()) <= 1e-5
        seconds = time_ways(run, options)
        positions = count_positions(run, options)
    report(options, differences, seconds, positions)


def make_run(out: Path, options: argparse.Namespace) -> Run:
    """A fine-tuning of QQP that was not begun yet, with just enough steps."""
    settings = (f"train.steps={WARM_UP + options.steps}", f"model.dropout={options.dropout}")
    request = FinetuneRequest(load_task("qqp"), options.weights, tuple(options.train), assignments=settings)
    return create_run(request, out)


def compare_losses(run: Run, weights: Path) -> dict[str, float]:
    """The first batch's mean loss, ours against each of theirs, with dropout 0."""
    workload = Finetuning(run)
    ours = our_model(run, workload).eval()
    theirs = their_model(run, weights, dropout=0.0).eval()
    rows = workload.rows(0)
    order = rows[workload.examples.lengths[rows].argsort()]
    with torch.no_grad():
        batch = workload.examples.batch(order, torch.device("cpu"))
        found = float(ours(batch)[LOSS]) / len(order)
        return {
            way: abs(found - float(theirs(**padded_batch(workload, order, length)).loss))
            for way, length in WAYS.items()
        }


def time_ways(run: Run, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each way's timed steps, by round."""
    seconds: dict[str, list[float]] = {"fpm": [], **{way: [] for way in WAYS}}
    for _ in range(options.rounds):
        seconds["fpm"].append(alone(time_ours, run.path, options))
        for way, length in WAYS.items():
            seconds[way].append(alone(time_theirs, run.path, options, length))
            print({name: [round(one, 2) for one in each] for name, each in seconds.items()}, flush=True)
    return seconds


def alone(work: Callable[..., float], *arguments: Any) -> float:
    """What `work` returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def time_ours(folder: Path, options: argparse.Namespace) -> float:
    """The steps of the training loop: batches made, forward, backward, optimizer."""
    torch.set_num_threads(1)
    run = Run.open(folder)
    config, workload = run.config(), Finetuning(run)
    with distributed_world(60.0) as world:
        keep_freed_memory()  # as `train` does for this workload
        engine = TrainingEngine(our_model(run, workload), config, world)
        engine.model.train()
        began, split = 0.0, split_batch(config.train, 1)
        for index in range(WARM_UP + options.steps):
            if index == WARM_UP:
                began = time.process_time()
            engine.step(workload.micro_batches(index, split, world), lr=config.train.lr)
        return time.process_time() - began


def time_theirs(folder: Path, options: argparse.Namespace, length: int | None) -> float:
    """The same steps of transformers' Trainer."""
    import transformers

    torch.set_num_threads(1)
    run = Run.open(folder)
    workload, clock = Finetuning(run), StepClock()
    size = run.config().train.global_batch
    rows = [int(row) for step in range(WARM_UP + options.steps) for row in workload.rows(step)]

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(rows)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=size,
            max_steps=WARM_UP + options.steps,
            learning_rate=run.config().train.lr,
            weight_decay=run.config().train.weight_decay,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = InOrder(
            model=their_model(run, options.weights, options.dropout),
            args=arguments,
            train_dataset=rows,
            data_collator=lambda chosen: padded_batch(workload, torch.tensor(chosen).numpy(), length),
            callbacks=[clock.callback()],
        )
        trainer.train()
    return clock.ends[-1] - clock.ends[WARM_UP - 1]


class StepClock:
    """Remembers when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def callback(self) -> Any:
        """For Trainer."""
        import transformers

        ends = self.ends

        class Callback(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ends.append(time.process_time())

        return Callback()


def our_model(run: Run, workload: Finetuning) -> Classifier:
    """With the weights that the run starts from."""
    model = workload.build_network()
    model.load_state_dict(load_weights(run)[0])
    return model


def their_model(run: Run, weights: Path, dropout: float) -> Any:
    """BertForSequenceClassification of the same weights, with our head."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    model = transformers.BertForSequenceClassification.from_pretrained(
        weights, local_files_only=True, num_labels=2, **rates
    )
    head = load_weights(run)[0]
    model.classifier.weight.data.copy_(head["classifier.weight"])
    model.classifier.bias.data.copy_(head["classifier.bias"])
    return model


def padded_batch(workload: Finetuning, rows: Any, length: int | None) -> dict[str, torch.Tensor]:
    """The same sequences padded to `length`, or to the longest."""
    batch = workload.examples.batch(rows, torch.device("cpu"))
    keep = torch.arange(length or int(batch["lengths"].max())) < batch["lengths"][:, None]  # (n, S)
    tensors = {"attention_mask": keep.long(), "labels": batch["labels"]}
    for name, values in (("input_ids", batch["tokens"]), ("token_type_ids", batch["token_types"])):
        tensors[name] = torch.zeros(keep.shape, dtype=torch.long).masked_scatter_(keep, values)
    return tensors


def count_positions(run: Run, options: argparse.Namespace) -> dict[str, int]:
    """Positions that each way computes in the timed steps."""
    workload = Finetuning(run)
    batches = [
        workload.examples.lengths[workload.rows(step)] for step in range(WARM_UP, WARM_UP + options.steps)
    ]
    return {
        "fpm": int(sum(lengths.sum() for lengths in batches)),
        "padded to 128": sum(128 * len(lengths) for lengths in batches),
        "padded dynamically": int(sum(lengths.max() * len(lengths) for lengths in batches)),
    }


def report(
    options: argparse.Namespace,
    differences: dict[str, float],
    seconds: dict[str, list[float]],
    positions: dict[str, int],
) -> None:
    """Print the table and write the JSON."""
    best = {way: min(each) for way, each in seconds.items()}
    print(f"\n{'way':20} {'s a step':>9} {'ratio':>7} {'limit':>7} {'target':>7}")
    for way, each in best.items():
        ratio, limit = each / best["fpm"], positions[way] / positions["fpm"]
        target = f"{TARGETS[way]:6.1f}x" if way in TARGETS else ""
        print(f"{way:20} {each / options.steps:9.3f} {ratio:6.2f}x {limit:6.2f}x {target}")
    if options.out:
        document = {
            "steps": options.steps,
            "dropout": options.dropout,
            "loss_differences": differences,
            "seconds": seconds,
            "ratios": {way: each / best["fpm"] for way, each in best.items()},
            "positions": positions,
        }
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
