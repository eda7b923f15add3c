"""The training loop: one function that reads from top to bottom; the lifting is done by its rooms."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack

import torch

from fpm_cli.checkpoints.checkpoint import SpikeState
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.budget import Budget
from fpm_cli.engine.checkpointer import Checkpointer
from fpm_cli.engine.deepspeed_engine import Batch, BatchShape, TrainingEngine, batch_shape
from fpm_cli.engine.layer_statistics import LayerStatistics
from fpm_cli.engine.pretraining import Pretraining
from fpm_cli.engine.spikes import SpikeGuard
from fpm_cli.engine.telemetry import Telemetry
from fpm_cli.engine.workload import Workload
from fpm_cli.engine.world import World, joined_world
from fpm_cli.errors import DamagedError, StoppedError
from fpm_cli.launch.heartbeat import Heartbeat
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.runs.run import Run


def train(
    run: Run,
    heartbeat: Heartbeat,
    workload_type: type[Workload] | None = None,
    *,
    quiet: bool = False,
    began: float | None = None,
) -> None:
    """Train `run` from its newest checkpoint, or from the start, to its last step; every rank calls this.

    A wall-clock budget runs from `began` (time.time()); None is now.

    Raises:
        StoppedError: a signal came; the state is saved and `--resume` goes on.
        DivergedError: loss or gradient are not finite, or spike, and do not stop; none of it is saved.
    """
    config, began = run.config(), began or time.time()
    plan = config.train
    with ExitStack() as stack:
        world = stack.enter_context(joined_world(config.engine.timeout_seconds))
        _same_everywhere(config, world)
        shape = batch_shape(config, world.size)
        workload = (workload_type or Pretraining)(run)
        if workload.keeps_freed_memory:
            keep_freed_memory()
        engine = TrainingEngine(workload.build_model(world.device), config, world)
        layers = LayerStatistics(engine.model, world) if plan.layer_statistics else None
        checkpointer = Checkpointer(engine, run, config)
        stack.callback(checkpointer.close)
        resumed = checkpointer.load()
        first_step = resumed.step if resumed else 0
        checkpointer.require_space(first_step)

        if world.any(heartbeat.shutdown.requested):
            raise StoppedError(f"stopped before step {first_step + 1}; go on with {run.resume_command}")
        budget = Budget(run, config, first_step, began, is_main_process=world.is_main_process)
        telemetry = Telemetry(run, config, world, first_step, quiet=quiet) if world.is_main_process else None
        if telemetry:
            stack.callback(telemetry.close)
            run.begin_launch(devices=world.size, device_name=world.device_name, first_step=first_step)

        guard = SpikeGuard(plan, resumed.spikes if resumed else SpikeState())
        for step, micro_batches in _steps(workload, shape, world, guard, first_step, plan.steps):
            started, heartbeat.step = time.monotonic(), step
            torch.manual_seed(_step_seed(plan.seed, step, world))  # dropout, as a function of the step
            lr = budget.learning_rate(step - 1)
            watched = layers if step % plan.log_every == 0 or step in (1, plan.steps) else None
            result = engine.step(micro_batches, lr, watched, guard.judge)
            go_back = guard.settle(step, result)
            proposed = budget.propose(step) if world.is_main_process else 0
            wish, last_step = world.sum([float(heartbeat.shutdown.requested), float(proposed)])
            last = budget.follow(step, int(last_step))
            stopping = wish > 0 and not last
            if telemetry:
                telemetry.last_step = budget.last_step
                flops = workload.flops(step + guard.passed_over)
                telemetry.step(step, result, flops, lr, time.monotonic() - started)
                if step % plan.log_every == 0:  # steps that a kill loses are charged up to here
                    run.update_launch(last_step=step, seconds=telemetry.seconds, state="running")
            if go_back and not (last or stopping):
                found = checkpointer.load()
                at, before = (found.step, found.spikes) if found else (None, SpikeState())
                message = guard.go_back(step, at, before)
                budget.go_back(guard.rewinds[-1])
                if telemetry:
                    telemetry.go_back(guard.rewinds[-1], message)
                continue
            if watched:
                statistics = watched.result()
                if telemetry:
                    telemetry.layers(step, statistics)

            criterion, started = None, time.monotonic()
            if last or step % plan.eval_every == 0:
                validation = workload.validate(engine)
                criterion = validation.criterion
                if telemetry:
                    telemetry.evaluation(step, validation)
                budget.took("evaluation", time.monotonic() - started)
                started = time.monotonic()
            if last or stopping or (step % plan.save_every == 0 and guard.calm):
                if telemetry:
                    telemetry.sync()  # no step that is saved may be missing from metrics.jsonl
                checkpointer.save(step, criterion, guard.snapshot())
                if last or stopping:
                    checkpointer.wait()
                if not config.engine.async_save:
                    budget.took("save", time.monotonic() - started)
            for saved in checkpointer.poll_completed():
                if telemetry:
                    state = "finished" if last else "stopped" if stopping else "running"
                    run.update_launch(last_step=step, seconds=telemetry.seconds, state=state)
                    telemetry.event("save", saved, f"saved checkpoints/step-{saved}")
            if last:
                break
            if stopping:
                raise StoppedError(
                    f"stopped after step {step}, which is saved; continue with {run.resume_command}"
                )


def _same_everywhere(config: RunConfig, world: World) -> None:
    """Refuse to train with ranks that read another config.toml than rank 0: nodes must share the folder."""
    digest = hashlib.sha256(config.model_dump_json().encode()).digest()
    number = float(int.from_bytes(digest[:6], "big"))  # exact in float64
    if world.sum([number if world.is_main_process else 0.0])[0] != number:
        raise DamagedError(f"rank {world.rank} on this node read another config.toml than rank 0")


def _steps(
    workload: Workload, shape: BatchShape, world: World, guard: SpikeGuard, first_step: int, last_step: int
) -> Iterator[tuple[int, list[Batch]]]:
    """Each step's number and micro-batches; after a rewind again from there, past the spike's batches."""
    step = first_step
    while step < last_step:
        past = guard.passed_over
        for batches in workload.batches(shape, world, first_step=step + past, last_step=last_step + past):
            step += 1
            yield step, batches
            if guard.passed_over != past:
                step = guard.rewinds[-1]
                break


def _step_seed(seed: int, step: int, world: World) -> int:
    """A seed of its own for each step and rank."""
    return (seed * 1_000_003 + step) * 4096 + world.rank
