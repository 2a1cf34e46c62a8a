"""The commands: parse, call, print.

Nothing heavy is imported before a command has read its config, so that help and complaints are quick.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from evoprune.cli.bench_commands import bench
from evoprune.cli.options import ConfigPath, Overrides, Quiet, console_of_output, parsed
from evoprune.cli.printed_tables import frozen_lines, keys_table, layers_table, survivors_table, sweep_table
from evoprune.cli.progress_display import make_progress
from evoprune.config.loading import load_config, round_configs, trusted_keys
from evoprune.errors import ConfigError, Interrupted, RunFolderError, UserError
from evoprune.record.interrupts import Terminated, noticed, stoppable
from evoprune.record.places import is_remote, local_path, place_of

if TYPE_CHECKING:
    from evoprune.record.runs import Run

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

SECONDS_BETWEEN_LOOKS = 0.5
"""How often `evoprune watch` looks at the folder."""


class _Commands(TyperGroup):
    """The one place where exceptions become exit statuses; what it does not name is a bug and exits 1."""

    # The context is click's own or typer's copy of it, as typer's version has it.
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_USER_ERROR) from error
        except (Interrupted, KeyboardInterrupt) as error:
            typer.echo(f"interrupted: {error}" if str(error) else "interrupted", err=True)
            terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
            raise typer.Exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED) from error


app = typer.Typer(
    cls=_Commands,
    help="Evolutionary structured pruning of convolutional networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(bench, name="bench")


class ExportFormat(StrEnum):
    onnx = "onnx"
    torch = "torch"


class Quantization(StrEnum):
    int8 = "int8"


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


@app.command()
def run(
    config_path: ConfigPath,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="The run folder, or its URL: s3://... [default: results/NAME]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in DIR.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train, search, retrain and measure: the whole experiment."""
    config = load_config(config_path, parsed(overrides))
    folder = place_of(out) if out is not None else Path("results") / config.name
    with _resumable(folder), make_progress(quiet, sys.stderr) as progress:
        from evoprune.pipeline import run as pipeline

        result = pipeline.run(config, out=folder, overwrite=overwrite, progress=progress)
    _print_survivors(result)


@app.command()
def resume(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The run folder, or its URL.")],
    overrides: Overrides = None,
    generation: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Branch off after this generation, into --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="The branch's run folder, with --generation.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Go on with a run from where it stopped, or branch off from one of its generations."""
    changes = parsed(overrides)
    if (generation is None) != (out is None):
        raise ConfigError("--generation and --out go together: name the generation and the folder of the branch")
    if not is_remote(folder):
        stored = local_path(folder) / "config.yaml"
        if not stored.is_file():
            raise RunFolderError(f"{folder}: is no run folder (it has no config.yaml); start one with evoprune run")
        load_config(stored, changes)
    with _resumable(out or place_of(folder)), make_progress(quiet, sys.stderr) as progress:
        from evoprune.pipeline import run as pipeline

        result = pipeline.resume(place_of(folder), overrides=changes, generation=generation, out=out, progress=progress)
    _print_survivors(result)


@app.command()
def sweep(
    config_path: ConfigPath,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE,...", help="Values for a key, each in turn, as seed=0,1,2."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder for the run folders. [default: results/NAME-sweep]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run every combination of some keys' values, on the same workers; the same command goes on where it stopped."""
    load_config(config_path)
    try:
        with stoppable(), make_progress(quiet, sys.stderr) as progress:
            from evoprune.pipeline.sweep import parse_choices
            from evoprune.pipeline.sweep import sweep as run_all

            rows, folder = run_all(config_path, parse_choices(choices or ()), out, progress)
    except KeyboardInterrupt as error:
        raise Interrupted("go on with the same command") from error
    console = console_of_output()
    console.print(sweep_table(console, rows))
    typer.echo(f"table  {folder / 'sweep.csv'}")
    if failed := [row for row in rows if row["error"]]:
        raise UserError(f"{len(failed)} of {len(rows)} runs failed; the first: {failed[0]['error']}")


@app.command("watch")
def follow(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run folder.")],
) -> None:
    """Follow a run that another process does, until it is finished; Ctrl-C leaves it alone."""
    from evoprune.record.watch import watch

    try:
        with noticed() as asked, make_progress(False, sys.stderr) as progress:

            def wait() -> float:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                if asked:
                    raise KeyboardInterrupt
                return SECONDS_BETWEEN_LOOKS

            result = watch(folder, progress, wait)
    except KeyboardInterrupt:
        return
    _print_survivors(result)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders with some below.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The report of several runs, an HTML file of its own.")
    ] = None,
) -> None:
    """Draw a run's pictures and write its report into its folder, or one report of several runs side by side."""
    from evoprune.record.gather import runs_at
    from evoprune.report.write import write_joint_report, write_report

    runs = runs_at(folders)
    if out is not None:
        path = write_joint_report(runs, out)
    elif len(runs) == 1:
        path = write_report(runs[0])
    else:
        raise ConfigError(f"these are {len(runs)} runs; name the file of their joint report with --out FILE")
    typer.echo(str(path))


@app.command()
def inspect(
    subject: Annotated[
        str, typer.Argument(metavar="CONFIG", help="An experiment's YAML file, or a network: torchvision:resnet18.")
    ],
    overrides: Overrides = None,
    image_shape: Annotated[
        str, typer.Option("--images", metavar="CxHxW", help="Images that a network given by name reads.")
    ] = "3x224x224",
    classes: Annotated[int, typer.Option(min=2, help="Classes that a network given by name tells apart.")] = 1000,
) -> None:
    """Show what would be searched, without training anything."""
    if subject.endswith((".yaml", ".yml")) or Path(subject).is_file():
        config = load_config(subject, parsed(overrides))
        from evoprune.pipeline import run as pipeline

        report = pipeline.inspect(config)
        rounds = len(round_configs(config))
    else:
        if overrides:
            raise ConfigError("--set goes with a config file; a network given by name has --images and --classes")
        shape = _image_shape(image_shape)
        from evoprune.pipeline import run as pipeline

        report = pipeline.inspect_network(subject, shape, classes)
        rounds = 1
    console = console_of_output()
    console.print(f"{report.network}: {report.genes:,} genes in {report.groups:,} groups", markup=False)
    console.print(layers_table(console, report.layers, report.genes, report.macs, report.params))
    for line in frozen_lines(report.frozen):
        console.print(line, markup=False)
    if rounds > 1:
        console.print(
            f"this is round 1 of {rounds}; what a later round searches depends on the network handed on to it"
        )


class HelpTopic(StrEnum):
    """What `evoprune help` explains."""

    config = "config"


@app.command("help")
def explain(
    topic: Annotated[HelpTopic, typer.Argument(metavar="TOPIC", help="config: every key of an experiment's YAML.")],
) -> None:
    """Print every key of a config: what it may be, its default, its unit, what it means."""
    from evoprune.config.help import config_help

    console = console_of_output()
    console.print(keys_table(console, config_help()))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run folder.")],
    formats: Annotated[
        list[ExportFormat] | None, typer.Option("--format", help="Only this format; both without it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="OTHER", help="The files' folder. [default: DIR/export]")] = None,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Also ONNX of 8 bits, calibrated on the calibration set.")
    ] = None,
    normalisation: Annotated[
        bool,
        typer.Option(
            help="Normalise inside the exported network, which then reads pixels in 0..1; without it, it reads "
            "(pixel - mean) / std."
        ),
    ] = True,
    opset: Annotated[int | None, typer.Option(metavar="N", help="The version of ONNX's operators.")] = None,
) -> None:
    """Write every survivor as ONNX, as a torch.export program and as safetensors, and check what was written.

    ONNX models and programs read pixels in 0..1 as float32 (n, c, h, w) and give logits (n, classes). Mean, standard
    deviation, layout, colour order and class names are in the metadata of every file.
    """
    if quantize is not None and formats is not None and ExportFormat.onnx not in formats:
        raise ConfigError("--quantize goes with ONNX; leave --format out, or add --format onnx")
    from evoprune.pipeline.export_run import FORMATS, TABLE, export_run

    wanted = FORMATS if formats is None else tuple(wish.value for wish in formats)
    export_run(
        folder,
        wanted,
        out,
        normalisation=normalisation,
        opset=opset,
        int8=quantize is not None,
        report=typer.echo,
    )
    typer.echo(f"table  {(out or folder / 'export') / TABLE}")


@app.command()
def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The study, a YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The table; rows that it holds are not made again. [default: results/NAME.csv]"
        ),
    ] = None,
    timing: Annotated[
        bool, typer.Option("--time", help="At the end, time every network beside the unpruned one: on a quiet machine.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods on the same networks, targets and seeds, all retrained alike; goes on where it stopped."""
    from evoprune.bench.study.study_config import load_study

    settings = load_study(config)
    path = out or Path("results") / f"{settings.name}.csv"
    from evoprune.bench.study.run_study import run_study
    from evoprune.bench.study.study_plot import plot_study, study_summary

    with make_progress(quiet, sys.stderr) as progress:
        table = run_study(settings, path, progress)
        if timing:
            from evoprune.bench.study.study_timing import time_study

            table = time_study(settings, path, progress)
    plot_study(table, path.with_suffix(".png"))
    typer.echo(study_summary(table).to_string(index=False))
    for written in (path, path.with_suffix(".png")):
        typer.echo(f"written  {written}")


def main() -> None:
    """The `evoprune` command.

    One that was interrupted leaves without the interpreter's own way out, on which threads of native libraries, stopped
    in the middle of their work, can bring the process down: everything is written and Ray is shut down by then.
    """
    try:
        app()
    except SystemExit as end:
        if end.code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code))
        raise


def _image_shape(text: str) -> tuple[int, int, int]:
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise ConfigError(f"--images must be channels x height x width, as 3x224x224, not {text}")
    channels, height, width = (int(size) for size in sizes)
    return channels, height, width


@contextmanager
def _resumable(folder: str | Path) -> Iterator[None]:
    """Lets an interruption, by Ctrl-C or SIGTERM, say how to go on with the run in `folder`."""
    try:
        with stoppable():
            yield
    except (Interrupted, KeyboardInterrupt) as error:
        config = local_path(folder) / "config.yaml"
        if is_remote(folder):
            remedy = f"go on with: evoprune resume {shlex.quote(str(folder))}"
        elif config.is_file():
            again = trusted_keys(load_config(config))
            changes = "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in again.items())
            remedy = f"go on with: evoprune resume {shlex.quote(str(folder))}{changes}"
        else:
            remedy = "nothing was written yet; run it again"
        raise Interrupted(remedy) from error


def _print_survivors(result: "Run") -> None:
    console = console_of_output()
    records = [{str(key): value for key, value in row.items()} for row in result.survivors.to_dict("records")]
    if records:
        console.print(survivors_table(console, records))
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
    console.print(f"read it     evoprune.load_run({str(root)!r})", markup=False, soft_wrap=True)
