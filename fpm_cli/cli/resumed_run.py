"""What `fpm pretrain` checks before it trains in a run folder: an unchanged configuration and corpus."""

from pathlib import Path
from typing import TYPE_CHECKING

from fpm_cli.checkpoints.folders import require_no_lost_checkpoint
from fpm_cli.cli.console import stderr_console
from fpm_cli.cli.new_run import RunSettings
from fpm_cli.config.resolve import difference, reconfigure, resolve
from fpm_cli.errors import DamagedError
from fpm_cli.progress_bars import working
from fpm_cli.runs.find import newest_run
from fpm_cli.runs.run import Run

if TYPE_CHECKING:
    from fpm_cli.corpus.corpus import Corpus

CONTINUE_CHANGED = "--allow-config-change continues with the new one"


def resume_run(out: Path | None, settings: RunSettings, allow_change: bool) -> Run:
    """Open the run to continue, whose configuration must be the one that it began with.

    Args:
        out: the run folder; None: the newest run.
        settings: what the flags set again or change.
        allow_change: record a changed configuration instead of refusing it.

    Raises:
        DamagedError: the configuration is another one, or the run lost its checkpoints.
    """
    run = Run.open(out) if out else newest_run()
    require_no_lost_checkpoint(run)
    recorded, current = run.recorded_config(), run.config()
    config_file, assignments = settings.config_file, settings.assignments
    if settings.preset or settings.proxy:
        name, proxy = settings.preset or recorded.name, settings.proxy or recorded.proxy
        current = resolve(name, proxy=proxy, config_file=config_file, assignments=assignments).config
    elif config_file or assignments:
        current = reconfigure(current, config_file=config_file, assignments=assignments)
    if current != recorded:
        changed = difference(recorded, current)
        if not allow_change:
            raise DamagedError(
                f"{run.path} was started with another configuration: {changed}; {CONTINUE_CHANGED}"
            )
        with run.lock():
            run.change_config(current, changed)
    return run


def ensure_sample_corpus(run: Run) -> None:
    """Build the sample corpus of a proxy inside its run, unless the run has a corpus."""
    path = run.corpus_path()
    if path.is_relative_to(run.path) and not path.exists():
        from fpm_cli.corpus.samples import build_sample_corpus

        config = run.config()
        task = f"building the sample corpus and its {config.tokenizer} tokenizer in {path}"
        with working(task, stderr_console()):
            build_sample_corpus(config, path)


def check_corpus(run: Run, given: Path | None, allow_change: bool) -> None:
    """Verify the files of the corpus, compare it with the recorded one, and record it in the run.

    Args:
        run: keeps a copy of the corpus's tokenizer.
        given: the corpus of --corpus; None: the recorded one.
        allow_change: accept another corpus or tokenizer.

    Raises:
        DamagedError: a file is damaged, or the corpus is another one.
    """
    from fpm_cli.corpus.corpus import TOKENIZER, Corpus

    corpus = Corpus.open(given or run.corpus_path())
    corpus.verify()
    _require_same(run, corpus, allow_change)
    manifest, facts = run.manifest(), corpus.manifest
    if not run.tokenizer_path.exists() or manifest.tokenizer_fingerprint != facts.tokenizer.fingerprint:
        run.keep_tokenizer(corpus.path / TOKENIZER)
    run.update_manifest(
        tokenizer_fingerprint=facts.tokenizer.fingerprint,
        corpus_fingerprint=facts.fingerprint,
        corpus=str(given.resolve()) if given else manifest.corpus,
        ready=True,
    )


def require_same_corpus(run: Run, given: Path, allow_change: bool) -> None:
    """Compare the corpus in the folder `given` with the recorded one.

    Raises:
        DamagedError: it is another one; names the fingerprint that differs.
    """
    from fpm_cli.corpus.corpus import Corpus

    _require_same(run, Corpus.open(given), allow_change)


def _require_same(run: Run, corpus: "Corpus", allow_change: bool) -> None:
    manifest, facts = run.manifest(), corpus.manifest
    fingerprints = {
        "tokenizer_fingerprint": (manifest.tokenizer_fingerprint, facts.tokenizer.fingerprint),
        "corpus_fingerprint": (manifest.corpus_fingerprint, facts.fingerprint),
    }
    for field, (recorded, current) in fingerprints.items():
        if recorded not in (None, current) and not allow_change:
            raise DamagedError(
                f"{corpus.path}: {field} was {recorded} and is now {current}; {CONTINUE_CHANGED}"
            )
