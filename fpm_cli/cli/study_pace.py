"""How fast this machine is at the runs of a study: real steps of each depth, and a command's start."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.study.estimate import FinetuningCost, Pace
from fpm_cli.study.settings import StudySettings
from fpm_cli.study.study import Cell, Study

if TYPE_CHECKING:
    from fpm_cli.tasks.measure import FinetuningPlan

SECONDS_PER_CONFIG = 1.5
START = "import fpm_cli.engine.train, deepspeed"  # what a command imports before its first step


def measure_pace(study: Study, cells: Sequence[Cell], num_jobs: int) -> Pace:
    """Measure each distinct network with the threads that a run gets when `num_jobs` run side by side."""
    import torch

    from fpm_cli.engine.measure import measure_step_seconds
    from fpm_cli.engine.world import distributed_world
    from fpm_cli.launch.placement import threads_per_process
    from fpm_cli.objectives.build import build_samples
    from fpm_cli.tasks.measure import measure_finetuning

    began = time.monotonic()
    subprocess.run([sys.executable, "-c", START], check=True, capture_output=True)
    start_seconds = time.monotonic() - began
    pretrained = {cell.config.model: cell.config for cell in cells}
    tuned = {cell.config.model for cell in cells if not cell.tuning} if study.settings.task else set()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_per_process(num_jobs))
    seconds, finetuning = {}, {}
    try:
        with distributed_world(timeout_seconds=60.0) as world, _opened_corpus(study) as corpus:
            samples = len(build_samples(study.settings.reference_config, corpus, "validation"))
            plan = _finetuning_plan(study.settings, corpus) if study.settings.task else None
            for model, config in pretrained.items():
                seconds[model] = measure_step_seconds(
                    config, world, budget_seconds=SECONDS_PER_CONFIG, statistic=fmean
                )
                if plan and model in tuned:
                    measured = measure_finetuning(plan, config, world, budget_seconds=SECONDS_PER_CONFIG)
                    finetuning[model] = FinetuningCost(
                        measured.finetune_seconds, measured.scoring_seconds, measured.model_flops
                    )
    finally:
        torch.set_num_threads(threads)

    def seconds_per_step(config: RunConfig) -> float:
        return seconds[config.model]

    def finetuning_cost(config: RunConfig) -> FinetuningCost:
        return finetuning[config.model]

    return Pace(seconds_per_step, start_seconds, samples, finetuning_cost if study.settings.task else None)


@contextmanager
def _opened_corpus(study: Study) -> Iterator[Corpus]:
    """The study's corpus; the sample corpus is built in a temporary folder where the study is not there."""
    if study.corpus_path.exists():
        yield Corpus.open(study.corpus_path)
        return
    from fpm_cli.corpus.samples import build_sample_corpus

    with tempfile.TemporaryDirectory() as folder:
        yield build_sample_corpus(study.settings.reference_config, Path(folder) / "corpus")


def _finetuning_plan(settings: StudySettings, corpus: Corpus) -> "FinetuningPlan":
    from fpm_cli.tasks.definition import load_task
    from fpm_cli.tasks.measure import FinetuningPlan

    task = settings.task
    assert task
    return FinetuningPlan.read(
        load_task(task.name),
        corpus,
        [Path(path) for path in task.train_files],
        Path(task.dev_file),
        task.assignments,
    )
