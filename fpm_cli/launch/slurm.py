"""The batch script for SLURM: one fpm process per node, which starts and supervises the ranks of the node.

Two minutes before the time limit, and before a preemption, SLURM sends SIGUSR1 to every process. The ranks
save a checkpoint and exit with 75; the job is requeued and resumes.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from fpm_cli.errors import FpmError, StoppedError, UsageError
from fpm_cli.launch.hosts import require_programs
from fpm_cli.programs import run_program

NOTICE_SECONDS = 120
PROGRAMS = ("sbatch", "srun", "scontrol")
CORES_PER_PROCESS = 4  # unless an option sets it; the default of many sites is one core per task
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nnodes}
#SBATCH --ntasks-per-node=1
#SBATCH --output={name}-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=USR1@{notice}
#SBATCH --requeue
{more}cd {folder} || exit 1
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
if [ -f {out}/config.toml ]; then run=(--resume); else run=({begin}); fi
# Since SLURM 22.05, srun does not inherit this from sbatch.
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}}"
# One task per node; $SLURM_NODEID is set only inside the task.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' fpm \\
    {fpm} {verb} "${{run[@]}}" --out {out} --nproc {nproc} --nnodes {nnodes}{interface} \\
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"
status=$?
if [ $status -eq {stopped} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
"""


ARRAY_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output={name}-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --signal=USR1@{notice}
#SBATCH --requeue
{more}cd {folder} || exit 1
parts=({parts})
# srun does not take this over from sbatch (since slurm 22.05).
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}}"
srun --ntasks=1 --kill-on-bad-exit=1 {command} "${{parts[$SLURM_ARRAY_TASK_ID]}}"
status=$?
if [ $status -eq {stopped} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
"""


def array_script(
    *, name: str, parts: Sequence[str], command: Sequence[str], nproc: int, options: Sequence[str]
) -> str:
    """A job array with a task for each part: `command` with the part as its last argument, on one node.

    Args:
        name: of the jobs.
        parts: what the tasks are for, in the order of their numbers.
        command: resumes where an earlier start of the same task stopped.
        nproc: processes of each task.
        options: further ones of sbatch.

    Raises:
        UsageError: an option has a line break.
    """
    return ARRAY_SCRIPT.format(
        name=shlex.quote(f"fpm-{name}"),
        last=len(parts) - 1,
        notice=NOTICE_SECONDS,
        more=_directives(options, nproc),
        folder=shlex.quote(str(Path.cwd())),
        parts=shlex.join(parts),
        command=shlex.join(command),
        stopped=StoppedError.exit_status,
    )


def batch_script(
    *,
    fpm: Sequence[str],
    verb: str,
    begin: Sequence[str],
    out: Path,
    nnodes: int,
    nproc: int,
    interface: str | None,
    options: Sequence[str],
) -> str:
    """The batch script. `begin` are the flags of a new run, `options` further options of sbatch.

    The working folder, `out` and fpm must have the same paths on every node.

    Raises:
        UsageError: an option contains a line break.
    """
    return SCRIPT.format(
        name=shlex.quote(f"fpm-{out.name}"),
        nnodes=nnodes,
        nproc=nproc,
        notice=NOTICE_SECONDS,
        more=_directives(options, nproc),
        folder=shlex.quote(str(Path.cwd())),
        out=shlex.quote(str(out)),
        begin=shlex.join(begin),
        fpm=shlex.join(fpm),
        verb=verb,
        interface=f" --interface {shlex.quote(interface)}" if interface else "",
        stopped=StoppedError.exit_status,
    )


def _directives(options: Sequence[str], nproc: int) -> str:
    """A line for each option, and for cores where none asks for them."""
    cores = () if _asks_for_cores(options) else (f"--cpus-per-task={nproc * CORES_PER_PROCESS}",)
    return "".join(f"#SBATCH {_quote(option)}\n" for option in (*cores, *options))


def _asks_for_cores(options: Sequence[str]) -> bool:
    names = ("--cpus-per-task", "--cpus-per-gpu", "--exclusive", "-c")
    return any(option.startswith(names) for option in options)


def _quote(option: str) -> str:
    """Quote an option for an #SBATCH line, whose words are parsed as in a shell (slurm, src/sbatch/opt.c).

    Raises:
        UsageError: it contains a line break, which would end the directive.
    """
    if "\n" in option:
        raise UsageError(f"--launcher-arg {option!r}: a line break cannot be passed to sbatch")
    return shlex.quote(option)


def submit(script: str) -> str:
    """Submit the script with sbatch and return its output, which names the job.

    Raises:
        MissingError: SLURM is not installed.
        FpmError: sbatch refused the job; the message is that of sbatch.
    """
    require_programs(PROGRAMS, "slurm")
    sbatch = run_program(["sbatch"], stdin=script)
    if sbatch.returncode:
        raise FpmError(f"sbatch refused the job: {sbatch.stderr.strip()}")
    return sbatch.stdout.strip()


def job_number(answer: str) -> str:
    """The number of the job in sbatch's answer, `Submitted batch job 123`.

    Raises:
        FpmError: there is none.
    """
    numbers = re.findall(r"\b\d+\b", answer)
    if not numbers:
        raise FpmError(f"sbatch's answer names no job: {answer!r}")
    return str(numbers[-1])
