"""The training loop: one rank of a run, from its newest checkpoint to its last step."""

import time

import torch

from fpm_cli.accounting.flops import StepFlops
from fpm_cli.config.batch_split import split_batch
from fpm_cli.engine.batches import BatchPrefetcher
from fpm_cli.engine.checkpointer import Checkpointer
from fpm_cli.engine.deepspeed_engine import StepResult, TrainingEngine
from fpm_cli.engine.layer_statistics import LayerStatistics
from fpm_cli.engine.spikes import SkipStepPolicy
from fpm_cli.engine.start import allocate_network
from fpm_cli.engine.stop_condition import StopCondition
from fpm_cli.engine.telemetry import RunTelemetry, Telemetry
from fpm_cli.engine.time_budget import TimeBudget
from fpm_cli.engine.validation import Validator
from fpm_cli.engine.workload import ValidationResult, Workload
from fpm_cli.engine.world import World
from fpm_cli.errors import StoppedError
from fpm_cli.launch.heartbeat import Heartbeat
from fpm_cli.runs.run import Run


class Trainer:
    """One rank of a launch. Each component decides itself whether it acts in a step and on this rank."""

    def __init__(
        self, run: Run, heartbeat: Heartbeat, workload: Workload, world: World, *, quiet: bool, began: float
    ):
        self.run, self.config, self.heartbeat = run, run.config(), heartbeat
        self.workload, self.world = workload, world
        split = split_batch(self.config.train, world.size)
        self.batches = BatchPrefetcher(lambda index: workload.micro_batches(index, split, world))
        self.skip_policy = SkipStepPolicy(self.config.train)
        model = allocate_network(workload.build_network, self.config, world)
        self.engine = TrainingEngine(model, self.config, world, self.skip_policy.should_skip)
        self.layer_statistics = LayerStatistics(model, world, self.config.train)
        self.checkpointer = Checkpointer(self.engine, run, self.config)
        checkpoint = self.checkpointer.load_or_initialise(workload.build_network)
        if checkpoint:
            self.skip_policy.load_state(checkpoint.spikes)
        self.step = checkpoint.step if checkpoint else 0  # optimizer steps taken
        self.checkpointer.require_space(self.step)
        if world.any(heartbeat.shutdown.requested):
            raise StoppedError(f"stopped before step {self.step + 1}; continue with {run.resume_command}")
        is_main, eval_every = world.is_main_process, self.config.train.eval_every
        self.budget = TimeBudget(run, self.config, self.step, began, is_main_process=is_main)
        self.stop_condition = StopCondition(self.budget, heartbeat.shutdown, world)
        self.telemetry = Telemetry()
        if is_main:
            self.telemetry = RunTelemetry(run, self.config, world, self.step, self._step_flops, quiet=quiet)
        self.validator = Validator(workload, self.engine, eval_every, self.telemetry, self.budget)

    def train(self) -> None:
        """Take optimizer steps until the last one, or until a shutdown is requested."""
        while self.step < self.config.train.steps:
            self.step += 1
            self.train_step()
            stop = self.stop_condition
            if self.skip_policy.should_rewind and not stop.reached:
                self.rewind()
                continue
            validation = self.validator.validate_if_due(self.step, is_last_step=stop.is_last_step)
            self.save_if_due(validation)
            self.telemetry.saves(self.checkpointer.poll_completed(), stop.run_state)
            if stop.is_last_step:
                return
            if stop.shutdown_requested:
                raise StoppedError(
                    f"stopped after step {self.step}, which is saved; continue with {self.run.resume_command}"
                )

    def train_step(self) -> StepResult:
        """Take optimizer step `self.step` (counted from 1) and report it."""
        started, self.heartbeat.step = time.monotonic(), self.step
        torch.manual_seed(self._dropout_seed())
        batches = self.batches.get(self.step - 1 + self.skip_policy.skipped_batches)
        lr = self.budget.learning_rate(self.step - 1)
        result = self.engine.step(batches, lr, self.layer_statistics.if_due(self.step))
        self.skip_policy.update(self.step, result)
        self.stop_condition.update(self.step)
        self.telemetry.step(self.step, result, lr, time.monotonic() - started, self.budget.last_step)
        return result

    def rewind(self) -> None:
        """Continue from the newest checkpoint, or the initial weights, with the batches after the spike."""
        checkpoint = self.checkpointer.load_or_initialise(self.workload.build_network)
        message = self.skip_policy.rewind(self.step, checkpoint)
        self.step = checkpoint.step if checkpoint else 0
        self.budget.rewind(self.step)
        self.telemetry.rewind(self.step, message)

    def save_if_due(self, validation: ValidationResult | None) -> None:
        """Save where the configuration says so, except within a loss spike, and at the end of the launch."""
        is_due = self.config.train.saves_after(self.step) and self.skip_policy.is_stable
        if not (is_due or self.stop_condition.reached):
            return
        with self.budget.timing("save"):
            self.telemetry.flush()  # no step that is saved may be missing from metrics.jsonl
            metric = validation.selection_metric if validation else None
            self.checkpointer.save(self.step, metric, self.skip_policy.state())
            if self.stop_condition.reached:
                self.checkpointer.wait()

    def close(self) -> None:
        """Wait for the save in flight and close all files."""
        self.telemetry.close()
        self.checkpointer.close()
        self.batches.close()

    def _step_flops(self, step: int) -> StepFlops:
        return self.workload.flops(step - 1 + self.skip_policy.skipped_batches)

    def _dropout_seed(self) -> int:
        """A seed of its own for each step and rank, so that a resumed run draws the same masks."""
        return (self.config.train.seed * 1_000_003 + self.step) * 4096 + self.world.rank
