"""How fast this machine is at the runs of a study: real steps of each depth, and a command's start."""

import subprocess
import sys
import time
from collections.abc import Sequence

from fpm_cli.config.schema import RunConfig
from fpm_cli.study.estimate import Pace
from fpm_cli.study.study import Cell, Study

SECONDS_PER_CONFIG = 1.5
START = "import fpm_cli.engine.train, deepspeed"  # what a command imports before its first step


def measure_pace(study: Study, cells: Sequence[Cell], num_jobs: int) -> tuple[Pace, int]:
    """Measure each distinct network with the threads that a run gets when `num_jobs` run side by side.

    Returns:
        The pace, and how many validation samples a run is scored on.
    """
    import torch

    from fpm_cli.corpus.corpus import Corpus
    from fpm_cli.engine.measure import measure_step_seconds
    from fpm_cli.engine.world import distributed_world
    from fpm_cli.launch.placement import threads_per_process
    from fpm_cli.objectives.build import build_samples

    began = time.monotonic()
    subprocess.run([sys.executable, "-c", START], check=True, capture_output=True)
    start_seconds = time.monotonic() - began
    configs = {cell.config.model: cell.config for cell in cells}
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_per_process(num_jobs))
    seconds = {}
    try:
        with distributed_world(timeout_seconds=60.0) as world:
            for model, config in configs.items():
                seconds[model] = measure_step_seconds(config, world, budget_seconds=SECONDS_PER_CONFIG)
    finally:
        torch.set_num_threads(threads)

    def seconds_per_step(config: RunConfig) -> float:
        return seconds[config.model]

    samples = study.settings.reference_config.train.eval_samples
    if study.corpus_path.exists():
        samples = len(
            build_samples(study.settings.reference_config, Corpus.open(study.corpus_path), "validation")
        )
    return Pace(seconds_per_step, start_seconds), samples
