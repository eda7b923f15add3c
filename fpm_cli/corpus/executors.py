"""Runs a function over many tasks: in this process, in worker processes, or on a Ray cluster."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from fpm_cli.errors import FpmError, MissingError, install_hint

Executor = Literal["local", "ray"]

# Calls a function on every task, in any order, and yields once for each that is done.
RunTasks = Callable[[Callable[[Any], None], Sequence[Any]], Iterator[None]]


@contextmanager
def open_executor(executor: Executor, workers: int) -> Iterator[RunTasks]:
    """What runs tasks until the context ends; worker processes start with the first task."""
    if executor == "ray":
        yield _run_on_ray
    elif workers == 1:
        yield _run_in_process
    else:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads and locks of libraries
        pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(os.getpid(),))
        try:
            yield partial(_run_in_pool, pool)
        finally:
            pool.shutdown(cancel_futures=True)


def _run_in_process(function: Callable[[Any], None], tasks: Sequence[Any]) -> Iterator[None]:
    for task in tasks:
        function(task)
        yield


def _run_in_pool(
    pool: ProcessPoolExecutor, function: Callable[[Any], None], tasks: Sequence[Any]
) -> Iterator[None]:
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            future.result()
            yield
    except BrokenProcessPool:
        raise FpmError(
            "a worker process died (killed, perhaps for lack of memory); the same command resumes from the "
            "finished shards, with fewer --workers if memory is short"
        ) from None


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, stay on one core, and never outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run_on_ray(function: Callable[[Any], None], tasks: Sequence[Any]) -> Iterator[None]:
    """One Ray task each; the nodes must see the inputs and the output folder under the same paths."""
    try:
        import ray
    except ImportError:
        raise MissingError(f"--executor ray needs Ray: {install_hint('ray')}") from None

    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # the cluster that RAY_ADDRESS names, or this machine
    remote = ray.remote(function)
    waiting = [remote.remote(task) for task in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
        yield
