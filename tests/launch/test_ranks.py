"""Ranks that die, hang, stop or are abandoned, with stand-ins for training that start in a moment."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from fpm_cli.errors import DivergedError, FpmError, StoppedError
from fpm_cli.launch.placement import Placement
from fpm_cli.launch.ranks import Ranks
from tests.launch.stand_in_ranks import ranks

TIMEOUT = 5.0  # Python starts within it on a busy machine too
AT_ONCE = 30.0  # what is never at once: the sleeps of 60 s; `make torture` holds real runs to 2 s


def since_moment(logs: Path) -> float:
    """Seconds since a rank noted the moment; the monotonic clock is the machine's, not the process's."""
    return time.monotonic() - float((logs / "moment").read_text())


def send_when_both_listen(logs: Path, *numbers: int) -> None:
    """Signal this process, the launcher, once both ranks beat."""

    def send() -> None:
        while len(list(logs.glob("*.beat"))) < 2:
            time.sleep(0.02)
        for number in numbers:
            (logs / "moment").write_text(str(time.monotonic()))
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    threading.Thread(target=send, daemon=True).start()


def gone(started: Ranks) -> bool:
    return all(rank.process.returncode is not None for rank in started.ranks)


def test_ranks_that_end_well_end_the_launch(tmp_path: Path) -> None:
    ranks(tmp_path, "").supervise(TIMEOUT)


def test_a_killed_rank_is_named_at_once_with_its_step_and_the_end_of_its_log(tmp_path: Path) -> None:
    started = ranks(
        tmp_path,
        """
        if rank == 1:
            print("all was well\\nuntil now", file=sys.stderr, flush=True)
            moment()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        """,
    )
    with pytest.raises(
        FpmError, match=r"rank 1 was killed by SIGKILL in step 7; its log .*rank-1.log ends:"
    ) as error:
        started.supervise(60)
    assert since_moment(tmp_path) < AT_ONCE
    assert str(error.value).endswith("\n  all was well\n  until now")
    assert gone(started)


def test_a_death_is_told_from_the_complaint_of_the_peer_that_noticed_it(tmp_path: Path) -> None:
    started = ranks(
        tmp_path,
        """
        while not (logs / "rank-1.beat").exists():
            time.sleep(0.02)
        os._exit(1) if rank == 0 else os.kill(os.getpid(), 9)
        """,
    )
    with pytest.raises(FpmError, match="rank 1 was killed by SIGKILL"):
        started.supervise(60)


def test_a_stopped_rank_is_named_after_the_timeout(tmp_path: Path) -> None:
    stops = "if rank == 1:\n    moment()\n    os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)"
    started = ranks(tmp_path, stops)
    with pytest.raises(FpmError, match="rank 1 sent no heartbeat for 5 s in step 7"):
        started.supervise(TIMEOUT)
    assert since_moment(tmp_path) < TIMEOUT + AT_ONCE
    assert gone(started)


def test_a_stopped_rank_is_named_when_the_one_that_waits_for_it_gives_up_first(tmp_path: Path) -> None:
    started = ranks(
        tmp_path,
        """
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(2.5)
        sys.exit(1)
        """,
    )
    with pytest.raises(FpmError, match="rank 1 hangs; rank 0 waited for it in vain"):
        started.supervise(TIMEOUT)
    assert gone(started)


def test_what_a_rank_raised_is_what_the_launch_raises(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="rank 0 ended with status 5"):
        ranks(tmp_path, "sys.exit(5) if rank == 0 else time.sleep(60)").supervise(60)


def test_a_signal_reaches_every_rank_and_their_saves_make_it_resumable(tmp_path: Path) -> None:
    started = ranks(
        tmp_path, "while not shutdown.requested: time.sleep(0.02)\ntime.sleep(rank * 0.5)\nsys.exit(75)"
    )
    send_when_both_listen(tmp_path, signal.SIGUSR1)
    with pytest.raises(StoppedError):
        started.supervise(60)
    assert [rank.process.returncode for rank in started.ranks] == [75, 75]


def test_a_signal_before_a_rank_listens_is_a_stop_too(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(StoppedError):
        Ranks(command, Placement(2), tmp_path).supervise(60)


def test_a_second_interrupt_does_not_wait_for_the_ranks(tmp_path: Path) -> None:
    started = ranks(tmp_path, "time.sleep(60)")
    send_when_both_listen(tmp_path, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        started.supervise(60)
    assert since_moment(tmp_path) < AT_ONCE
    assert gone(started)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
@pytest.mark.parametrize("behaviour", ["time.sleep(60)", "os.kill(os.getpid(), signal.SIGSTOP)"])
def test_a_killed_launcher_leaves_no_orphan_running_or_stopped(tmp_path: Path, behaviour: str) -> None:
    launcher = f"""
        import sys
        from pathlib import Path
        from tests.launch.stand_in_ranks import ranks
        ranks(Path({str(tmp_path)!r}), {behaviour!r}).supervise(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(launcher)])
    while len(list(tmp_path.glob("*.beat"))) < 2:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=AT_ONCE)
    assert not alive
