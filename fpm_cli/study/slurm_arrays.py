"""A study as job arrays of SLURM: a task for each depth and seed, after one for each learning rate tried."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fpm_cli.errors import FpmError
from fpm_cli.launch.slurm import array_script, job_number
from fpm_cli.study.chains import Chain, build_chains
from fpm_cli.study.study import Study

TUNING_JOB = "TUNING_JOB"  # stands for the first array's number until sbatch has said it


def study_scripts(
    study: Study, num_processes: int, options: Sequence[str], tuning_job: str = TUNING_JOB
) -> tuple[str, ...]:
    """The scripts of a study in the order in which they are submitted; the second waits for the first.

    The names of the grid's parts do not depend on the learning rates that the first array finds.
    """
    gpus = () if study.settings.reference_config.proxy else (f"--gpus-per-node={num_processes}",)

    def script(chains: Sequence[Chain], kind: str, more: Sequence[str]) -> str:
        path = str(study.path.resolve())
        command = (*(sys.executable, "-m", "fpm_cli"), "study", "resume", path)
        return array_script(
            name=f"{study.settings.name}{kind}",
            parts=[chain.name for chain in chains],
            command=(*command, "--nproc", str(num_processes), "--part"),
            nproc=num_processes,
            options=(*gpus, *more, *options),
        )

    scripts: list[str] = []
    waits: tuple[str, ...] = ()
    if study.tuning_cells:
        scripts.append(script(build_chains(study, study.tuning_cells, num_processes), "-rates", ()))
        waits = (f"--dependency=afterok:{tuning_job}",)
    scripts.append(script(build_chains(study, study.cells({}), num_processes), "", waits))
    return tuple(scripts)


@contextmanager
def removed_unless_submitted(study: Study) -> Iterator[None]:
    """Remove a new study folder where its submission fails, so that the same command can be given again."""
    try:
        yield
    except FpmError:
        shutil.rmtree(study.path)
        raise


def submit_study(
    study: Study, num_processes: int, options: Sequence[str], submit: Callable[[str], str]
) -> tuple[str, ...]:
    """Submit the scripts; the answers of sbatch. The corpus is built before, once for all tasks."""
    study.ensure_corpus()
    first, *rest = study_scripts(study, num_processes, options)
    answers = [submit(first)]
    if rest:
        answers.append(submit(study_scripts(study, num_processes, options, job_number(answers[0]))[1]))
    return tuple(answers)
