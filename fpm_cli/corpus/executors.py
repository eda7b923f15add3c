"""Runs a pure function over many tasks: here, in worker processes, or on a Ray cluster."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Literal, TypeVar

from fpm_cli.errors import FpmError, MissingError

Task = TypeVar("Task")
Executor = Literal["local", "ray"]


def run_tasks(
    function: Callable[[Task], None], tasks: Sequence[Task], workers: int, executor: Executor = "local"
) -> Iterator[None]:
    """Call `function` on every task, in any order, and yield once for each that is done."""
    if executor == "ray":
        yield from _run_on_ray(function, tasks)
    elif workers == 1 or len(tasks) < 2:
        for task in tasks:
            function(task)
            yield
    else:
        yield from _run_in_processes(function, tasks, min(workers, len(tasks)))


def _run_in_processes(
    function: Callable[[Task], None], tasks: Sequence[Task], workers: int
) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads and locks of libraries
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            future.result()
            yield
    except BrokenProcessPool:
        raise FpmError(
            "a worker died (killed, perhaps for want of memory); the same command goes on from the finished "
            "shards, with fewer --workers if memory is short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, stay on one core, and never outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run_on_ray(function: Callable[[Task], None], tasks: Sequence[Task]) -> Iterator[None]:
    """One Ray task each; the nodes must see the inputs and the output folder under the same paths."""
    try:
        import ray
    except ImportError:
        raise MissingError("--executor ray needs Ray: pip install 'fpm[ray]'") from None

    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # the cluster that RAY_ADDRESS names, or this machine
    remote = ray.remote(function)
    waiting = [remote.remote(task) for task in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
        yield
