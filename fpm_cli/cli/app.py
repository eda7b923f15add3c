"""The `fpm` application: registers the verbs and turns every exception into its exit status."""

import signal
import sys
import traceback
from typing import Annotated

import typer
from typer.exceptions import TyperException

from fpm_cli import __version__
from fpm_cli.cli import (
    build_corpus,
    corpus,
    cost_report,
    doctor,
    evaluate,
    export,
    finetune,
    generate,
    import_,
    plan,
    presets,
    pretrain,
    tokenize,
)
from fpm_cli.cli.console import stderr_console, verbosity
from fpm_cli.errors import FpmError

INTERRUPTED = 130

app = typer.Typer(
    name="fpm",
    help="Train, evaluate and account for families of language models at many depths.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(presets.app, name="presets")
app.add_typer(tokenize.app, name="tokenize")
app.command("build-corpus", epilog=build_corpus.EXAMPLES)(build_corpus.build_corpus)
app.add_typer(corpus.app, name="corpus")
app.command("cost-report", epilog=cost_report.EXAMPLES)(cost_report.cost_report)
app.add_typer(evaluate.app, name="evaluate")
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("import", epilog=import_.EXAMPLES)(import_.import_)
app.command("generate", epilog=generate.EXAMPLES)(generate.generate)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("finetune", epilog=finetune.EXAMPLES)(finetune.finetune)
app.command("plan", epilog=plan.EXAMPLES)(plan.plan_budget)
app.command("pretrain", epilog=pretrain.EXAMPLES)(pretrain.pretrain)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fpm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No log and no progress on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    verbosity.quiet, verbosity.debug = quiet, debug


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, and so on (`fpm_cli.errors`)."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status; errors are printed in a line or two on stderr."""
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="fpm", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TyperException as error:  # the parser's own: usage, with status 2
        show = getattr(error, "show", None)
        show() if show else _say(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our stdout went away, as in `fpm ... | head`
        sys.stdout = None
        return 128 + signal.SIGPIPE
    except FpmError as error:
        _say(str(error))
        return error.exit_status
    except OSError as error:  # a full disk, a permission: the system's own words, and where
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return 3 if isinstance(error, FileNotFoundError) else 1
    except Exception as error:
        _say(f"{type(error).__name__}: {error} (a bug: run again with `fpm --debug`, and tell us)")
        return 1


def _say(message: str) -> None:
    if verbosity.debug:
        traceback.print_exc()
    console = stderr_console()
    console.quiet = False
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False, soft_wrap=True)
