"""Runs `fpm` in processes forked from one that has imported torch and DeepSpeed, which takes seconds.

Everything after the imports is what a user starts: the command line, its ranks and the commands of a study,
each a process of its own. Tests of starting itself (signals, environments, hosts) use
`tests.small_runs.start`.
"""

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

ROOT = Path(__file__).parents[1]
MESSAGE_BYTES = 1 << 20
MODULES = ("fpm_cli", "fpm_cli.engine.worker")  # the programs that fpm starts with `python -m`


@dataclass
class Command:
    """A started command; what it writes on stderr goes to a temporary file."""

    pid: int
    messages: IO[bytes]
    server: "Preloaded"

    def wait(self) -> tuple[int, str]:
        """Its exit status, negative for a signal, and what it wrote on stderr."""
        status = self.server.status_of(self.pid)
        with self.messages as file:
            file.seek(0)
            return status, file.read().decode(errors="replace")


class Preloaded:
    """The process to fork from, and the commands started in it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.lines = connection.makefile("r", encoding="utf-8")
        self.statuses: dict[int, int] = {}

    def start(self, arguments: Sequence[str], **variables: str) -> Command:
        """Start `fpm` with these arguments in the current folder, with these environment variables too."""
        messages = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        request = json.dumps([list(arguments), environment, str(Path.cwd())]).encode()
        assert len(request) < MESSAGE_BYTES
        socket.send_fds(self.connection, [request], [messages.fileno()])
        return Command(self._read("started"), messages, self)

    def fpm(self, arguments: Sequence[str], **variables: str) -> None:
        """Run `fpm`, which must end with exit code 0."""
        status, message = self.start(arguments, **variables).wait()
        assert status == 0, message

    def status_of(self, pid: int) -> int:
        """Wait for a command."""
        while pid not in self.statuses:
            self._read("ended")
        return self.statuses[pid]

    def _read(self, kind: str) -> int:
        while True:
            received: dict[str, int] = json.loads(self.lines.readline())
            if "status" in received:
                self.statuses[received["pid"]] = received["status"]
            if (kind == "ended") == ("status" in received):
                return received["pid"]


@contextmanager
def preloaded_process() -> Iterator[Preloaded]:
    """Start the process to fork from; it ends with the connection."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-W", "ignore", "-m", "tests.preloaded", str(theirs.fileno())]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment)
    theirs.close()
    preloaded = Preloaded(ours)
    try:
        yield preloaded
    finally:
        preloaded.lines.close()
        ours.close()
        process.wait(60)


class ForkedProcess:
    """What of `subprocess.Popen` fpm uses to start its own programs, without another import of torch."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str],
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        stdin: int | None = None,
        start_new_session: bool = False,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:
        assert command[1] == "-m" and command[2] in MODULES, command
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            if start_new_session:
                os.setsid()
            if preexec_fn:
                preexec_fn()
            for number, target in ((1, stdout), (2, stderr)):
                if target is not None:
                    os.dup2(
                        os.open(os.devnull, os.O_RDWR) if isinstance(target, int) else target.fileno(), number
                    )
            for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(
                    caught, signal.default_int_handler if caught == signal.SIGINT else signal.SIG_DFL
                )
            _run(command[2], list(command[3:]), env)

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        """The exit status."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fpm", timeout)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send it, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


FORKING = SimpleNamespace(
    Popen=ForkedProcess, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
)


def _run(module: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Become that program; does not return."""
    status: Any = 1
    try:
        sys.argv[:] = [module, *arguments]
        os.environ.clear()
        os.environ.update(environment)
        if module == "fpm_cli":
            from fpm_cli.cli.app import run as main
        else:
            from fpm_cli.engine.worker import main
        status = main(arguments)
    except SystemExit as exit:
        status = exit.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _serve(connection: socket.socket) -> None:
    # What a training imports, some of it only when DeepSpeed's engine is built.

    import fpm_cli.cli.evaluate
    import fpm_cli.cli.finetune
    import fpm_cli.cli.pretrain
    import fpm_cli.cli.study
    import fpm_cli.corpus.samples
    import fpm_cli.engine.pretraining
    import fpm_cli.engine.trainer
    import fpm_cli.inference.language_model
    import fpm_cli.launch.ranks
    import fpm_cli.study.execution
    import fpm_cli.tasks.finetuning

    running: set[int] = set()
    while True:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                _send(connection, pid=pid, status=os.waitstatus_to_exitcode(status))
        if not select.select([connection], [], [], 0.02 if running else None)[0]:
            continue
        request, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 1)
        if not request:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return
        arguments, environment, folder = json.loads(request)
        pid = os.fork()
        if pid == 0:
            connection.close()
            for number, descriptor in enumerate([os.open(os.devnull, os.O_RDWR)] * 2 + descriptors):
                os.dup2(descriptor, number)
            os.chdir(folder)
            for starter in (fpm_cli.launch.ranks, fpm_cli.study.execution):
                starter.subprocess = FORKING  # type: ignore[attr-defined]
            _run("fpm_cli", arguments, environment)
        for descriptor in descriptors:
            os.close(descriptor)
        running.add(pid)
        _send(connection, pid=pid)


def _send(connection: socket.socket, **message: int) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
