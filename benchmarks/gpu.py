"""The first ten minutes on a machine with GPUs: `python -m benchmarks.gpu [--out DIR]`, or `make gpu`.

Runs fpm as a user would and compares what it does with what it planned: doctor, the compiled operators, two
trainings of one step's memory against the plan, throughput, an exact resume, inference, and with two GPUs or
more two ranks under every ZeRO stage. Writes DIR/result.json and DIR/result.md with every figure; a step that
fails is recorded with its message, and the others go on. Exit status: 0 all passed, 1 a step failed, 3 there
is no GPU. `--cpu` runs the same steps at tiny size on the processor, to try out this program itself.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu_session import CONSTANT, Session, Step, StepError, train_rows, write_result
from fpm_cli.accounting.memory import CPU_OVERHEAD, CUDA_OVERHEAD, device_memory
from fpm_cli.accounting.plan import fits_here
from fpm_cli.config.batch_split import split_batch
from fpm_cli.errors import FpmError, MissingError
from fpm_cli.launch.gpus import Gpus, query_gpus

STEPS = 8
TINY = (
    *("model.num_layers=2", "train.sequence_length=32", "train.global_batch=4", "train.micro_batch=2"),
    "train.eval_samples=4",
)
SHORT = ("train.eval_samples=16", "train.warmup_steps=0")
# Networks whose memory is compared with the plan: full width, few layers, as a checkpoint is written too.
SMALL_BATCH = ("train.global_batch=8", "train.micro_batch=4", "model.num_layers=2")
MEASURED = (
    ("BERT-C", ("model.num_layers=6", "train.global_batch=32", "train.micro_batch=16")),
    ("CPM-X-L", (*SMALL_BATCH, "engine.zero_stage=3")),
    ("CPM-2-X-M", (*SMALL_BATCH, "engine.zero_stage=2")),
)
CANDIDATES = ("BERT-C", "BERT-E-S")  # whole presets, whose checkpoints of 4 GB are written in seconds
PLANNED_WITHIN = 0.05  # of the measured peak


def doctor(session: Session, step: Step) -> None:
    """Versions, devices and what works."""
    step.figures = session.fpm_json(step, "doctor")
    failed = [check["name"] for check in step.figures["checks"] if not check["works"]]
    if session.on_gpu and failed:
        raise StepError(f"does not work: {', '.join(failed)}")


def kernels(session: Session, step: Step) -> None:
    """Build, list and time the compiled operators; the losses of a training with and without them."""
    on_gpu = ["--cuda"] if session.on_gpu else []
    try:
        session.fpm(step, "kernels", "build", *on_gpu)
    except StepError as error:  # without nvcc the reference runs, which the list says
        step.figures["build"] = str(error)
    step.figures["list"] = session.fpm_json(step, "kernels", "list")["operators"]
    sizes = SHORT if session.on_gpu else TINY
    for kind in ("auto", "reference"):
        values = (*sizes, "model.num_layers=2", "model.dropout=0", "train.steps=4", f"engine.kernels={kind}")
        rows = session.pretrain(step, "BERT-C", values, f"kernels-{kind}")
        step.figures[f"losses_{kind}"] = [row["loss"] for row in rows]
    pairs = zip(step.figures["losses_auto"], step.figures["losses_reference"], strict=True)
    step.figures["largest_difference"] = max(abs(ours - theirs) for ours, theirs in pairs)
    device = "cuda" if session.on_gpu else "cpu"
    compiled = {row["device"] for row in step.figures["list"] if row["implementation"] != "reference"}
    if device in compiled:
        flags = ["--gpu"] if session.on_gpu else ["--rounds", "1", "--threads", "1"]
        step.figures["bench"] = session.fpm_json(step, "kernels", "bench", *flags)["timings"]
    if step.figures["largest_difference"] > 0.02:
        raise StepError(f"the losses differ by {step.figures['largest_difference']:.3g}")


def memory_and_throughput(session: Session, step: Step, preset: str, assignments: Sequence[str]) -> None:
    """The peak of a training beside its plan, tokens per second and MFU."""
    values = (*assignments, *(SHORT if session.on_gpu else TINY), f"train.steps={STEPS}")
    config = session.config(preset, (*values, *CONSTANT))
    rows = session.pretrain(step, preset, values, f"memory-{preset}")
    precision = config.engine.resolve_precision(has_bf16=session.gpus.has_native_bf16)
    planned = device_memory(config, precision, split_batch(config.train, 1), cpu=not session.on_gpu)
    # The driver's context is not among torch's tensors; a CPU's resident memory has everything.
    expected = planned.needed - (CUDA_OVERHEAD if session.on_gpu else 0)
    measured = max(row["memory_bytes"] for row in rows)
    steady = rows[len(rows) // 2 :]
    seconds = sorted(row["seconds"] for row in steady)[len(steady) // 2]
    step.figures = {
        "planned_bytes": expected,
        "measured_bytes": measured,
        "planned_over_measured": expected / measured,
        "plan": planned.document(),
        "seconds_per_step": seconds,
        "tokens_per_second": rows[-1]["tokens"] / seconds,
        "model_flops_per_second": rows[-1]["model_flops"] / seconds,
        "losses": [row["loss"] for row in rows],
    }
    if not session.on_gpu:
        step.figures["process_bytes"] = CPU_OVERHEAD
    if session.on_gpu and not 1 - PLANNED_WITHIN <= expected / measured <= 1 + PLANNED_WITHIN:
        raise StepError(f"planned {expected / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")


def resume(session: Session, step: Step, preset: str) -> None:
    """A training that is stopped and resumed beside one that is not, with deterministic kernels."""
    values = [*(SHORT if session.on_gpu else TINY), "engine.deterministic=true"]
    if session.on_gpu:
        values += ["train.global_batch=16", "train.micro_batch=8"]
    through = session.pretrain(step, preset, (*values, f"train.steps={STEPS}"), "through")
    session.pretrain(step, preset, (*values, f"train.steps={STEPS // 2}"), "resumed")
    folder = session.scratch / "resumed"
    longer = ["--allow-config-change", "--set", f"train.steps={STEPS}"]
    session.fpm(step, "-q", "pretrain", "--resume", "--out", str(folder), *longer)
    ours, theirs = ([row["loss"] for row in rows] for rows in (through, train_rows(folder)))
    weights = [
        (run / f"checkpoints/step-{STEPS}/weights-0.safetensors").read_bytes()
        for run in (session.scratch / "through", folder)
    ]
    step.figures = {
        "losses": ours,
        "losses_resumed": theirs,
        "largest_difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "weights_identical": weights[0] == weights[1],
        "checkpoint_bytes": sum(
            path.stat().st_size for path in (folder / f"checkpoints/step-{STEPS}").iterdir()
        ),
    }
    if not step.figures["weights_identical"]:
        raise StepError(f"the losses differ by up to {step.figures['largest_difference']:.3g}")


def inference(session: Session, step: Step) -> None:
    """Text, a score and an export of a GPT."""
    sizes = SHORT if session.on_gpu else TINY
    values = (*sizes, "model.num_layers=2", "train.global_batch=4", "train.micro_batch=2", "train.steps=2")
    session.pretrain(step, "EPM-X-S", values, "gpt")
    run = str(session.scratch / "gpt")
    texts = session.fpm_json(step, "generate", run, "--prompt", "It is a truth", "--max-tokens", "16")
    scores = session.fpm_json(step, "evaluate", "lm", run, "--max-samples", "4")
    step.figures = {"texts": texts["texts"], "loss": scores["loss"]}
    exported = session.fpm_json(step, "export", run, "--out", str(session.scratch / "exported"))
    step.figures["export_difference"] = exported["difference"]


def two_ranks(session: Session, step: Step) -> None:
    """Two ranks under every ZeRO stage beside one: equal losses, and tokens per second."""
    sizes = (*SHORT, "train.global_batch=32", "train.micro_batch=8") if session.on_gpu else TINY
    values = (*sizes, "model.num_layers=4", "model.dropout=0", f"train.steps={STEPS}")
    alone = session.pretrain(step, "BERT-C", (*values, "engine.zero_stage=1"), "one-rank")
    differences: dict[str, float] = {}
    for stage in (1, 2, 3):
        stage_values = (*values, f"engine.zero_stage={stage}")
        rows = session.pretrain(step, "BERT-C", stage_values, f"two-ranks-{stage}", nproc=2)
        losses = zip(alone, rows, strict=True)
        differences[f"zero_{stage}"] = max(abs(a["loss"] - b["loss"]) for a, b in losses)
        seconds = sorted(row["seconds"] for row in rows)[len(rows) // 2]
        step.figures[f"zero_{stage}_tokens_per_second"] = rows[-1]["tokens"] / seconds
    step.figures |= {"one_rank_losses": [row["loss"] for row in alone], "largest_difference": differences}
    if max(differences.values()) > 0.02:  # bf16
        raise StepError(f"the losses differ: {differences}")


def fitting_preset(session: Session) -> str:
    """The first whole preset that fits on one of the cards.

    Raises:
        StepError: none does.
    """
    for preset in CANDIDATES:
        config = session.config(preset, ("train.global_batch=16", "train.micro_batch=8"))
        if not session.on_gpu:
            return preset
        bf16 = session.gpus.has_native_bf16
        if fits_here(config, session.gpus.free_bytes, 1, cpu=False, has_bf16=bf16).fits:
            return preset
    raise StepError(f"none of {', '.join(CANDIDATES)} fits in {session.gpus.free_bytes / 1e9:.1f} GB")


def run_session(session: Session) -> bool:
    """All steps; whether every one passed."""
    session.scratch.mkdir(parents=True, exist_ok=True)
    session.step("doctor", lambda step: doctor(session, step))
    session.step("kernels", lambda step: kernels(session, step))
    for preset, assignments in MEASURED:
        session.step(
            f"memory and throughput of {preset}",
            lambda step, preset=preset, assignments=assignments: memory_and_throughput(  # type: ignore[misc]
                session, step, preset, assignments if session.on_gpu else ()
            ),
        )
    session.step("exact resume", lambda step: resume(session, step, fitting_preset(session)))
    session.step("inference", lambda step: inference(session, step))
    if session.gpus.count != 1:  # on a CPU two ranks are tried too
        session.step("two ranks", lambda step: two_ranks(session, step))
    shutil.rmtree(session.scratch, ignore_errors=True)
    write_result(session)
    return all(step.passed for step in session.steps)


def main(arguments: Sequence[str], *, gpus: Callable[[], Gpus] = query_gpus) -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="a new folder for the result")
    parser.add_argument("--cpu", action="store_true", help="the same steps, tiny, without a GPU")
    given = parser.parse_args(arguments)
    try:
        found = Gpus(0, 0, False) if given.cpu else gpus()
        if not found.count and not given.cpu:
            raise MissingError(
                "no GPU that torch can use here, so nothing was run; `fpm doctor` says what is there"
            )
    except FpmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    if given.out.exists():
        print(f"error: {given.out} is already there; --out names a new folder", file=sys.stderr)
        return 2
    session = Session(given.out, found)
    passed = run_session(session)
    print(given.out / "result.md")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
