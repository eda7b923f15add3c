"""The `fpm` application: its options, and every exception turned into its exit status."""

import signal
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from fpm_cli import __version__
from fpm_cli.cli.console import stderr_console, verbosity
from fpm_cli.cli.verb_groups import VerbGroup
from fpm_cli.errors import FpmError, did_you_mean
from fpm_cli.text_encoding import decode_arguments, ensure_utf8_mode

INTERRUPTED = 130

app = typer.Typer(
    name="fpm",
    cls=VerbGroup,
    help="Train, evaluate and account for families of language models at many depths.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    ensure_utf8_mode()
    sys.exit(run(decode_arguments(sys.argv[1:])))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error is printed on stderr in a line or two."""
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="fpm", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TyperException as error:  # the parser's own
        _print_usage_error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout ended, as in `fpm ... | head`
        sys.stdout = None
        return 128 + signal.SIGPIPE
    except FpmError as error:
        _print_error(str(error))
        return error.exit_status
    except OSError as error:  # for example a full disk or a missing permission
        _print_error(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return 3 if isinstance(error, FileNotFoundError) else 1
    except Exception as error:
        _print_error(
            f"{type(error).__name__}: {error} (a bug in fpm; `fpm --debug ...` shows where, `fpm doctor` "
            "what to report with it)"
        )
        return 1


def _print_usage_error(error: TyperException) -> None:
    """The parser's message in the form of fpm's own; the help text where no command was given."""
    message = error.format_message()
    if message.startswith("Usage:"):
        typer.echo(message, err=True)
        return
    if option := getattr(error, "option_name", None):
        message = f"{error.message}{did_you_mean(option, getattr(error, 'possibilities', None) or ())}"
    message = message.removesuffix(".").replace(". Did you mean", "; did you mean")
    context: Any = getattr(error, "ctx", None)
    where = f" (see `{context.command_path} --help`)" if context else ""
    _print_error(f"{message[:1].lower()}{message[1:]}{where}")


def _print_error(message: str) -> None:
    if verbosity.debug:
        traceback.print_exc()
    console = stderr_console()
    console.quiet = False
    console.print("[bold red]error:[/] ", end="")
    console.print(message, markup=False, soft_wrap=True)
