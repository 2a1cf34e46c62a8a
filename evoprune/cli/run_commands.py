"""The commands that carry out runs or follow one. Heavy modules are imported after the config has been checked."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from evoprune.cli.options import ConfigPath, Overrides, Quiet, console_of_output, parsed
from evoprune.cli.printed_tables import survivors_table, sweep_table
from evoprune.cli.progress_display import make_progress
from evoprune.config.loading import load_config, repeated, trusted_keys
from evoprune.errors import ConfigError, Interrupted, RunFolderError, UserError
from evoprune.record.interrupts import noticed, stoppable
from evoprune.record.places import is_remote, local_path, place_of

if TYPE_CHECKING:
    from evoprune.record.runs import Run

SECONDS_BETWEEN_LOOKS = 0.5
"""Seconds between two looks of `evoprune watch` at the folder."""


def run(
    config_path: ConfigPath,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Run folder, or its URL (s3://...) (default: results/NAME).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in DIR.")] = False,
    quiet: Quiet = False,
) -> None:
    """Carry out an experiment: train, search, retrain and measure."""
    config = load_config(config_path, parsed(overrides))
    folder = place_of(out) if out is not None else Path("results") / config.name
    with _resumable(folder), make_progress(quiet, sys.stderr) as progress:
        from evoprune.pipeline import run as pipeline

        result = pipeline.run(config, out=folder, overwrite=overwrite, progress=progress)
    _print_survivors(result)


def resume(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Run folder, or its URL.")],
    overrides: Overrides = None,
    generation: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Start a branch after this generation, in --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Run folder of the branch, with --generation.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Resume a run where it stopped, or start a branch from one of its generations."""
    changes = parsed(overrides)
    if (generation is None) != (out is None):
        raise ConfigError("--generation and --out go together: give the generation and the folder of the branch")
    if not is_remote(folder):
        stored = local_path(folder) / "config.yaml"
        if not stored.is_file():
            raise RunFolderError(f"{folder}: not a run folder (it has no config.yaml); start a run with evoprune run")
        load_config(stored, changes)
    with _resumable(out or place_of(folder)), make_progress(quiet, sys.stderr) as progress:
        from evoprune.pipeline import run as pipeline

        result = pipeline.resume(place_of(folder), overrides=changes, generation=generation, out=out, progress=progress)
    _print_survivors(result)


def sweep(
    config_path: ConfigPath,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE,...", help="Values of a key, one run for each, e.g. seed=0,1,2."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the run folders (default: results/NAME-sweep).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run all combinations of the values of some keys on the same workers. The same command resumes a sweep."""
    if not choices:
        raise ConfigError("a sweep needs --set KEY=VALUE,... with the values to try; for a single run: evoprune run")
    load_config(config_path)
    try:
        with stoppable(), make_progress(quiet, sys.stderr) as progress:
            from evoprune.pipeline.sweep import parse_choices
            from evoprune.pipeline.sweep import sweep as run_all

            rows, folder = run_all(config_path, parse_choices(choices), out, progress)
    except KeyboardInterrupt as error:
        raise Interrupted("go on with the same command") from error
    console = console_of_output()
    console.print(sweep_table(console, rows))
    typer.echo(f"table  {folder / 'sweep.csv'}")
    if failed := [row for row in rows if row["error"]]:
        raise UserError(f"{len(failed)} of {len(rows)} runs failed; the first: {failed[0]['error']}")


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")],
) -> None:
    """Follow a run of another process until it is finished. Ctrl-C ends only this command."""
    from evoprune.record.watch import watch as follow

    try:
        with noticed() as asked, make_progress(False, sys.stderr) as progress:

            def wait() -> float:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if asked:
                    raise KeyboardInterrupt
                return SECONDS_BETWEEN_LOOKS

            result = follow(folder, progress, wait)
    except KeyboardInterrupt:
        return
    _print_survivors(result)


@contextmanager
def _resumable(folder: str | Path) -> Iterator[None]:
    """Adds to an interruption, by Ctrl-C or SIGTERM, the command that resumes the run in `folder`."""
    try:
        with stoppable():
            yield
    except (Interrupted, KeyboardInterrupt) as error:
        config = local_path(folder) / "config.yaml"
        if is_remote(folder):
            remedy = f"go on with: evoprune resume {quote(str(folder))}"
        elif config.is_file():
            trusted = repeated(trusted_keys(load_config(config)))
            remedy = f"go on with: evoprune resume {quote(str(folder))} {trusted}".rstrip()
        else:
            remedy = "nothing was written yet; run it again"
        raise Interrupted(remedy) from error


def _print_survivors(result: "Run") -> None:
    console = console_of_output()
    records = [{str(key): value for key, value in row.items()} for row in result.survivors.to_dict("records")]
    if records:
        console.print(survivors_table(console, records, result.other_cost))
    else:
        console.print("no candidate stayed within search.tolerance; raise it or search for longer")
    root = result.root
    for what, place in (
        ("survivors", root / "survivors.parquet"),
        ("networks", root / "survivors"),
        ("candidates", root / "candidates"),
        ("config", root / "config.yaml"),
        *((("report", root / "report.html"),) if (root / "report.html").is_file() else ()),
    ):
        console.print(f"{what:<10}  {place}", markup=False, soft_wrap=True)
    console.print(f"in Python   evoprune.load_run({str(root)!r})", markup=False, soft_wrap=True)
