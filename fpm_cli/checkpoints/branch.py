"""A new run that starts at a checkpoint of another one, whose constant learning rate it decays.

Runs of several lengths under a `wsd` schedule share their constant part, so that k lengths cost one trunk and
k decays (Hägele et al. 2024, arXiv 2405.18392).
"""

import shutil
from pathlib import Path

from fpm_cli.checkpoints.checkpoint import checkpoint_folder, verify_checkpoint
from fpm_cli.config.resolve import difference
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.files import replace_file, sync_tree
from fpm_cli.runs.run import Run


def branch_run(source: Run, step: int, path: Path, config: RunConfig) -> Run:
    """Create the run folder `path` with the source's checkpoint of `step`, to be trained under `config`.

    Raises:
        UsageError: the schedule is not wsd, the step lies outside the constant part of either run, or more
            than the length of the training is changed.
        MissingError: the source has no checkpoint of that step.
        DamagedError: the checkpoint is damaged.
    """
    _check(source, step, config)
    folder = checkpoint_folder(source, step)
    if not folder.is_dir():
        raise MissingError(
            f"{source.path} has no checkpoint of step {step}; train.keep_steps=[{step}] keeps one"
        )
    verify_checkpoint(folder)
    run = Run.create(path, config, source.corpus_path().resolve())
    try:
        hidden = run.checkpoints / f".step-{step}.tmp"
        shutil.copytree(folder, hidden)
        sync_tree(hidden)
        hidden.rename(checkpoint_folder(run, step))
        replace_file(run.path / "latest", f"step-{step}\n".encode())
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return run


def _check(source: Run, step: int, config: RunConfig) -> None:
    trunk = source.config()
    for name, train in (("the run", trunk.train), ("the new run", config.train)):
        if train.schedule != "wsd":
            raise UsageError(f"--decay-from: train.schedule of {name} is {train.schedule!r}, not 'wsd'")
        constant = train.steps - train.decay_steps
        if not train.warmup_steps <= step <= constant:
            raise UsageError(
                f"--decay-from: the learning rate of {name} is constant from step {train.warmup_steps} to "
                f"{constant}; step {step} is not one of them"
            )
    lengths = ("steps", "decay_share", "min_lr", "keep_steps", "eval_every", "save_every", "log_every")
    same = config.train.model_copy(update={name: getattr(trunk.train, name) for name in lengths})
    if changed := difference(trunk, config.model_copy(update={"train": same})):
        raise DamagedError(f"--decay-from: {source.path} was trained otherwise: {changed}")
