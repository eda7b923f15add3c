"""The ranks of several hosts, started by DeepSpeed's own launcher from a hostfile, and watched from here.

DeepSpeed reaches the hosts by pdsh over ssh and passes on neither signals nor the exit status of a rank.
So the launcher's side of the lifeline does: the wish to stop is a file in the run folder, and how each
rank ended, or that it hangs, is read from its signs of life there.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fpm_cli.errors import FpmError, StoppedError
from fpm_cli.launch.heartbeat import STOP, Sign, beat_path, beat_seconds, read_sign
from fpm_cli.launch.ranks import BY_STATUS, last_words
from fpm_cli.launch.shutdown import StopWish
from fpm_cli.runs.run import Run

END_SECONDS = 45.0  # DeepSpeed gives its processes 30 s between SIGTERM and SIGKILL


def deepspeed_command(
    hostfile: Path, master_addr: str, master_port: int, worker: Sequence[str], options: Sequence[str]
) -> list[str]:
    """DeepSpeed's launcher over `hostfile`; `worker` is what each rank runs after `python -m`."""
    return [
        str(Path(sys.executable).with_name("deepspeed")),
        *("--hostfile", str(hostfile), "--force_multi", "--no_ssh_check", "--no_local_rank"),
        *("--master_addr", master_addr, "--master_port", str(master_port)),
        *(*options, "--module", *worker),
    ]


def see_through(run: Run, command: Sequence[str], world_size: int, timeout_seconds: float) -> None:
    """Run DeepSpeed's launcher to its end; a signal to this process stops and saves all ranks.

    Raises:
        FpmError: what the first failing rank raised, or that it died or hangs.
        KeyboardInterrupt: a second Ctrl-C.
    """
    logs = run.path / "logs"
    watch = _Watch(logs, world_size)
    with run.lock(), StopWish() as stop:
        (logs / STOP).unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            while process.poll() is None:
                if stop.wanted:
                    (logs / STOP).touch()
                if hanging := watch.hanging(timeout_seconds):
                    raise FpmError(
                        watch.report(hanging[0], f"shows no sign of life for {timeout_seconds:g} s")
                    )
                time.sleep(0.1)
            time.sleep(beat_seconds(timeout_seconds) if process.returncode else 0)
            watch.look()
            _judge(watch, process.returncode)
        finally:
            (logs / STOP).unlink(missing_ok=True)
            _end(process)


def _judge(watch: "_Watch", status: int) -> None:
    ended = {rank: sign.status for rank, sign in watch.signs.items() if sign.status is not None}
    failed = sorted(
        (status == 1, rank) for rank, status in ended.items() if status
    )  # one that says why first
    if not failed and status == 0 and len(ended) == watch.world_size:
        return
    if not failed:
        lost = next(rank for rank in range(watch.world_size) if rank not in ended)
        raise FpmError(watch.report(lost, f"died; DeepSpeed's launcher ended with status {status}"))
    rank = failed[0][1]
    kind = BY_STATUS.get(ended[rank], FpmError)
    if kind is StoppedError:
        raise StoppedError("stopped; every step up to the last save is kept")
    raise kind(watch.report(rank, f"ended with status {ended[rank]}"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """DeepSpeed ends the ranks on all hosts when it is told to end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Watch:
    """The signs of all ranks, and when each was last a new one."""

    def __init__(self, logs: Path, world_size: int):
        self.logs, self.world_size = logs, world_size
        self.signs: dict[int, Sign] = {}
        self.seen = dict.fromkeys(range(world_size), time.monotonic())
        for rank in range(world_size):
            beat_path(logs, rank).unlink(missing_ok=True)

    def look(self) -> None:
        for rank in self.seen:
            sign = read_sign(self.logs, rank)
            if sign and sign != self.signs.get(rank):
                self.signs[rank], self.seen[rank] = sign, time.monotonic()

    def hanging(self, seconds: float) -> list[int]:
        self.look()
        now, signs = time.monotonic(), self.signs
        silent = [rank for rank, seen in self.seen.items() if now - seen > seconds]
        return [rank for rank in silent if rank not in signs or signs[rank].status is None]

    def report(self, rank: int, how: str) -> str:
        sign = self.signs.get(rank)
        where = f" on {sign.host} in step {sign.step}" if sign else ""
        return f"rank {rank}{where} {how}; {last_words(self.logs, rank)}"
