"""Scores a GPT run on tasks of lm-eval (EleutherAI/lm-evaluation-harness), which is optional."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fpm_cli.errors import FpmError, MissingError, UsageError, did_you_mean, install_hint
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.progress import StageReport

FEWSHOT_SEED = 1234  # lm-eval's own
NUM_RESAMPLES = 1000  # for the standard errors of metrics that have no formula


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one task, or of a group of tasks, as lm-eval computes it."""

    task: str
    metric: str
    filter: str  # lm-eval's name of what was done to the answers before comparing them; mostly `none`
    value: float | str | None
    stderr: float | None
    num_examples: int | None  # None: of a group
    num_fewshot: int | None


def score_with_harness(
    trained: TrainedModel, tasks: Sequence[str], report: StageReport, *, max_examples: int | None = None
) -> list[HarnessScore]:
    """Score a GPT with lm-eval.

    Args:
        trained: the run.
        tasks: files in lm-eval's YAML, folders of such files, or names of lm-eval's own tasks.
        report: called with a stage's name, the number of finished requests and of all of them.
        max_examples: the first examples of each task; None: all.

    Raises:
        MissingError: lm-eval is not installed, or a task needs something that is not on this machine.
        UsageError: the run is no GPT, a task is not one of lm-eval, or it asks for what fpm's GPT cannot do.
        FpmError: lm-eval cannot evaluate a task.
    """
    try:
        from lm_eval.evaluator import evaluate
    except ImportError as error:
        raise MissingError(f"lm-eval is not installed: {install_hint('lm-eval')}") from error
    from fpm_cli.inference.harness_model import HarnessModel

    model = HarnessModel(trained, report)
    with _quiet():
        loaded = _load(tasks)
        try:
            results = evaluate(
                model, loaded, limit=max_examples, bootstrap_iters=NUM_RESAMPLES, log_samples=False
            )
        except FpmError:
            raise
        except Exception as error:  # of lm-eval's code, or of a task's own
            raise FpmError(f"lm-eval cannot evaluate {', '.join(tasks)}: {_one_line(error)}") from error
    return list(_scores(results))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's log, progress bars and prints."""
    import datasets
    from tqdm import tqdm

    logger, bar = logging.getLogger("lm_eval"), tqdm.__init__
    level = logger.level

    def without_bar(self: Any, *args: Any, **options: Any) -> None:
        bar(self, *args, **{**options, "disable": True})

    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with patch.object(tqdm, "__init__", without_bar), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _load(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The tasks and groups in the form that lm-eval evaluates; nothing is downloaded."""
    import datasets
    import huggingface_hub.constants
    from lm_eval.tasks import TaskManager

    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    folders = {
        task: TaskManager(include_path=task, include_defaults=False) for task in filter(_is_dir, tasks)
    }
    own = {task for task in tasks if task not in folders and not Path(task).is_file()}
    library = TaskManager(include_defaults=bool(own))  # the index of lm-eval's own tasks takes seconds
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for task in tasks:
        manager = folders.get(task, library)
        names = list(manager.all_subtasks) if task in folders else [task]
        if not names:
            raise UsageError(f"{task}: no task in lm-eval's YAML (*.yaml) is in this folder")
        if task in own and task not in manager.all_tasks:
            _refuse_name(task, manager.all_tasks)
        part = _load_part(manager, task, names)
        if twice := loaded["tasks"].keys() & part["tasks"].keys():
            raise UsageError(f"{task}: task {sorted(twice)[0]} was already named")
        for kind, entries in loaded.items():
            entries.update(part.get(kind, {}))
    for each in loaded["tasks"].values():
        if each.get_config("num_fewshot") is None:
            each.set_config(key="num_fewshot", value=0)
        each.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def _is_dir(task: str) -> bool:
    return Path(task).is_dir()


def _refuse_name(task: str, known: Sequence[str]) -> None:
    if task.endswith((".yaml", ".yml")) or "/" in task:
        raise MissingError(f"{task}: no such task file")
    hint = did_you_mean(task, known) or "; give a file in lm-eval's YAML, or the name of one of its tasks"
    raise UsageError(f"lm-eval has no task {task!r}{hint}")


def _load_part(manager: Any, task: str, names: list[str]) -> Mapping[str, dict[str, Any]]:
    try:
        part: Mapping[str, dict[str, Any]] = manager.load(names)
    except FileNotFoundError as error:
        here = "paths in a task's file are relative to the current folder"
        raise MissingError(f"task {task}: {_one_line(error)}; {here}") from error
    except ConnectionError as error:
        raise MissingError(
            f"task {task} needs a download, and fpm downloads nothing: {_one_line(error)}; load the data "
            "set once with `datasets`, or name local data_files in a task file of your own"
        ) from error
    except ImportError as error:
        raise MissingError(f"task {task} needs another package: {_one_line(error)}") from error
    except Exception as error:  # any error of a library that reads a user's file
        raise UsageError(f"{task} is not a task that lm-eval can load: {_one_line(error)}") from error
    return part


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _scores(results: Mapping[str, Any]) -> Iterator[HarnessScore]:
    for task, values in {**results["results"], **results.get("groups", {})}.items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered}")
            yield HarnessScore(
                task=task,
                metric=metric,
                filter=filtered,
                value=value if isinstance(value, str) or value is None else float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                num_examples=results["n-samples"].get(task, {}).get("effective"),
                num_fewshot=results["n-shot"].get(task),
            )
