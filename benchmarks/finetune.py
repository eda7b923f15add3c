"""How fast a classifier is fine-tuned, against transformers' Trainer on the same weights and examples.

    python -m benchmarks.finetune [--weights DIR] [--train FILE...] [--out finetune.json]

DIR is a BERT in transformers' format (by default one of MiniLM-L6's shape with fresh weights, which
takes the same time), FILE a training file of QQP; Trainer needs accelerate. One process, one thread:
first the losses of all three ways on the same examples with dropout 0, which must agree to 1e-5; then
optimizer steps over the same batches in the same order: fpm's packed ones through its DeepSpeed engine,
and Trainer's, padded to 128 tokens and to the longest of the batch, each timing in a process of its
own. Seconds are the process's CPU time, which other work on the machine disturbs little; the ways take
turns. The arithmetic limit is the ratio of the positions computed; optimizer and data cost all of them
the same.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.measurements import Measurement, interleave, measurement, parse_arguments, report
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
    """Compare the losses, and time all ways."""
    options = parse_arguments(__doc__, add_arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        options.weights = options.weights or fresh_weights(Path(folder) / "weights", options.data)
        options.train = options.train or [options.data / "qqp_cs224n" / "quora-train-small.csv"]
        run = make_run(Path(folder) / "run", options)
        differences = compare_losses(run, options.weights)
        print("losses differ by", ", ".join(f"{value:.1e} ({way})" for way, value in differences.items()))
        assert max(differences.values()) <= 1e-5
        seconds = time_ways(run, options)
        positions = count_positions(run, options)
    ours = seconds.pop("fpm")
    rows = [row(way, ours, times, positions) for way, times in seconds.items()]
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--train", type=Path, nargs="+", help="by default quora-train-small.csv in --data")
    parser.add_argument("--steps", type=int, default=5, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0, help="while timing")


def fresh_weights(folder: Path, data: Path) -> Path:
    """A BERT of the shape of MiniLM-L6 (nreimers/MiniLM-L6-H384-uncased on the hub) with new weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    transformers.BertModel(config).save_pretrained(folder)
    shutil.copy(data / "vocab_bert" / "bert-base-uncased-vocab.txt", folder / "vocab.txt")
    return folder


def row(way: str, ours: list[float], theirs: list[float], positions: dict[str, int]) -> Measurement:
    """One way of transformers' Trainer beside fpm."""
    return measurement(
        "fine-tuning a BERT of 6 x 384 on QQP",
        "some optimizer steps",
        f"transformers' Trainer, {way}",
        ours,
        theirs,
        asked=TARGETS[way],
        limit=f"{positions[way] / positions['fpm']:.2f}x by positions computed",
    )


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
        loss = float(ours(batch)[LOSS]) / len(order)
        return {
            way: abs(loss - float(theirs(**padded_batch(workload, order, length)).loss))
            for way, length in WAYS.items()
        }


def time_ways(run: Run, options: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds of each way's timed steps, by round."""
    sides = {"fpm": partial(alone, time_ours, run.path, options)}
    for way, length in WAYS.items():
        sides[way] = partial(alone, time_theirs, run.path, options, length)
    return interleave(sides, options.rounds)


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
        keep_freed_memory(large_blocks=True)  # as `train` does for this workload
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


if __name__ == "__main__":
    main()
