"""The `evoprune` command: its subcommands, and exceptions as exit statuses."""

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from evoprune.cli.bench_commands import bench, study
from evoprune.cli.explaining_commands import explain, init, inspect, list_plugins
from evoprune.cli.result_commands import export, report
from evoprune.cli.run_commands import resume, run, sweep, watch
from evoprune.cli.streams import printed_warnings, take_standard_streams
from evoprune.errors import Interrupted, UserError, shown
from evoprune.record.interrupts import Terminated

EXIT_OTHER_ERROR = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class _Commands(TyperGroup):
    """The only place where exceptions become exit statuses; an exception that it does not name is a bug and exits 1."""

    # The context is click's own or typer's copy of it, depending on the version of typer.
    def invoke(self, ctx: Any) -> Any:
        try:
            with printed_warnings():
                return super().invoke(ctx)
        except UserError as error:
            raise _ended(f"error: {error}", EXIT_USER_ERROR) from error
        except (Interrupted, KeyboardInterrupt) as error:
            terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
            text = f"interrupted: {error}" if str(error) else "interrupted"
            raise _ended(text, EXIT_TERMINATED if terminated else EXIT_INTERRUPTED) from error
        except SystemExit as error:  # typer has exceptions of its own to exit
            raise _ended(
                f"error: code that was called ended the command (SystemExit: {error.code}); "
                "see the keys of the config that are module:attribute",
                EXIT_OTHER_ERROR,
            ) from error
        except (ImportError, MemoryError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                raise _ended(f"error: {shown(error.filename)} is too long for a path", EXIT_USER_ERROR) from error
            if (problem := _environment_problem(error)) is None:
                raise
            raise _ended(f"error: {problem}", EXIT_OTHER_ERROR) from error


def _ended(text: str, status: int) -> typer.Exit:
    """Prints a line on standard error. Returns the exception that exits with a status."""
    typer.echo(text, err=True)
    return typer.Exit(status)


def _environment_problem(error: Exception) -> str | None:
    """The message for a library that cannot be loaded or memory that is used up; None for any other error."""
    reason = shown(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    loading = isinstance(error, ImportError) and not (error.name or "").startswith("evoprune")
    if loading or (isinstance(error, OSError) and error.errno is None):  # OSError: of the dynamic linker
        return f"a library cannot be loaded ({reason}); see that it is installed and has the memory (ulimit -v)"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return f"out of memory ({reason}); see what else the machine does, and the limit of the process (ulimit -v)"
    return None


app = typer.Typer(
    cls=_Commands,
    help="Evolutionary structured pruning of convolutional networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (init, run, resume, sweep, watch, report, inspect, export, study):
    app.command()(command)
app.command("help")(explain)
app.command("list")(list_plugins)
app.add_typer(bench, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"evoprune {version('evoprune')}")
        raise typer.Exit


@app.callback()
def _evoprune(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The `evoprune` command.

    A standard output or standard error that cannot be written does not end a command; lost output makes its exit
    status 1, lost progress does not.

    An interrupted command skips the interpreter's own clean-up, in which threads of native libraries, stopped in the
    middle of their work, can crash the process. Everything is written and Ray is shut down by then.
    """
    output = take_standard_streams()
    try:
        app()
    except SystemExit as end:
        output.flush()
        sys.stderr.flush()
        if end.code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            os._exit(int(end.code))
        if output.problem is not None and not end.code:
            if not isinstance(output.problem, BrokenPipeError):  # whoever reads a pipe may stop when they like
                typer.echo(f"error: standard output cannot be written: {output.problem}", err=True)
            raise SystemExit(EXIT_OTHER_ERROR) from end
        raise
