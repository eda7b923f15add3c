"""Fine-tunes a network on every task of a suite, one run per task in one folder."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from fpm_cli.runs.run import Run
from fpm_cli.tasks.finetune_run import FinetuneRequest, create_run
from fpm_cli.tasks.suite import Suite


def suite_runs(
    suite: Suite,
    data: Path,
    request: FinetuneRequest,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
) -> Iterator[Run]:
    """The run of each task with training data, created where it is not there yet, in the suite's order.

    Args:
        suite: the tasks.
        data: the suite's folder, laid out as its archives are.
        request: the source and the settings; its task and files are replaced by each task's.
        out: the folder of the runs; a run that is there is continued.

    Raises:
        MissingError: a training file is not there; found before any run is created.
    """
    entries = [entry for entry in suite.tasks if entry.train]
    train_files = suite.train_files(data)
    out.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        folder = out / entry.task
        if not folder.exists():
            dev_file = entry.find(data, entry.dev)
            files = (train_files[entry.task],)
            of_task = replace(request, task=entry.definition(), train_files=files, dev_file=dev_file)
            create_run(of_task, folder, log)
        yield Run.open(folder)
