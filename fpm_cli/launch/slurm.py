"""A batch script for SLURM: one fpm on each node, which starts and watches the ranks there.

Two minutes before the time is over, and before a preemption, SLURM sends SIGUSR1 to every process; they
save and end with status 75, and the job is queued again, and resumes where it stopped.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from fpm_cli.errors import FpmError, StoppedError, UsageError
from fpm_cli.launch.hosts import require_programs
from fpm_cli.programs import run_program

NOTICE_SECONDS = 120
CORES_PER_PROCESS = 4  # where no option says otherwise; many sites give a task one core by default
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
# srun does not take this over from sbatch (since slurm 22.05).
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}}"
# One task a node; $SLURM_NODEID is known only inside it.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' fpm \\
    {fpm} {verb} "${{run[@]}}" --out {out} --nproc {nproc} --nnodes {nnodes}{interface} \\
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"
status=$?
if [ $status -eq {stopped} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
"""


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
    """The whole script. `begin` are the flags of a new run, `options` further ones of sbatch.

    Every node must see the working folder, `out` and fpm under the same paths.

    Raises:
        UsageError: an option has a line break.
    """
    cores = () if _asks_for_cores(options) else (f"--cpus-per-task={nproc * CORES_PER_PROCESS}",)
    return SCRIPT.format(
        name=shlex.quote(f"fpm-{out.name}"),
        nnodes=nnodes,
        nproc=nproc,
        notice=NOTICE_SECONDS,
        more="".join(f"#SBATCH {_quote(option)}\n" for option in (*cores, *options)),
        folder=shlex.quote(str(Path.cwd())),
        out=shlex.quote(str(out)),
        begin=shlex.join(begin),
        fpm=shlex.join(fpm),
        verb=verb,
        interface=f" --interface {shlex.quote(interface)}" if interface else "",
        stopped=StoppedError.exit_status,
    )


def _asks_for_cores(options: Sequence[str]) -> bool:
    names = ("--cpus-per-task", "--cpus-per-gpu", "--exclusive", "-c")
    return any(option.startswith(names) for option in options)


def _quote(option: str) -> str:
    """As sbatch reads a directive: words of it are quoted as in a shell (slurm, src/sbatch/opt.c).

    Raises:
        UsageError: it has a line break, which would end the directive.
    """
    if "\n" in option:
        raise UsageError(f"--launcher-arg {option!r}: a line break cannot be passed on to sbatch")
    return shlex.quote(option)


def submit(script: str) -> str:
    """Hand the script to sbatch; its answer, which names the job.

    Raises:
        MissingError: there is no SLURM here.
        FpmError: sbatch refused it, in its own words.
    """
    require_programs(["sbatch", "srun", "scontrol"], "slurm")
    sbatch = run_program(["sbatch"], stdin=script)
    if sbatch.returncode:
        raise FpmError(f"sbatch refused the job: {sbatch.stderr.strip()}")
    return sbatch.stdout.strip()
