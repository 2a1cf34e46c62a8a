"""The commands `evoprune bench ...` and `evoprune study`. Heavy modules are imported when a command runs."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evoprune.cli.options import Overrides, Quiet, console_of_output, parsed
from evoprune.cli.printed_tables import fitness_table
from evoprune.cli.progress_display import make_progress
from evoprune.config.loading import load_config

bench = typer.Typer(help="Repeatable measurements of speed and agreement.", no_args_is_help=True)


@bench.command()
def inference(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders.")],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Table; rows of other runs are kept. A plot goes beside it."),
    ] = Path("results/whole_network_speed.csv"),
    seconds: Annotated[float, typer.Option(min=0.001, help="Seconds of timing per network and round.")] = 0.2,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, metavar="N", help="Number of threads (default: 1, and all cores).")
    ] = None,
) -> None:
    """Time survivors against the baseline, whole and layer by layer, in PyTorch and onnxruntime."""
    from evoprune.bench.inference import bench_inference

    bench_inference(folders, out, seconds, typer.echo, threads=threads)
    for path in (out, out.with_name(f"{out.stem}_layers.csv"), out.with_suffix(".png")):
        typer.echo(f"written  {path}")


class Library(StrEnum):
    """The libraries of networks (`evoprune.bench.space_libraries.LIBRARIES`)."""

    torchvision = "torchvision"
    timm = "timm"
    segmentation = "segmentation"


@bench.command()
def spaces(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Networks (default: all).")] = None,
    library: Annotated[
        Library,
        typer.Option(help="torchvision's classification networks, 60 of timm, or 10 of segmentation_models_pytorch."),
    ] = Library.torchvision,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table; networks that it has already are skipped (default: results/LIBRARY_spaces.csv).",
        ),
    ] = None,
) -> None:
    """Find and prove the search spaces of the networks of a library, each in a process of its own."""
    from evoprune.bench.spaces import library_spaces

    library_spaces(library.value, out or Path("results") / f"{library.value}_spaces.csv", names, typer.echo)


@bench.command()
def start(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Networks (default: all six).")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table; networks that it has already are skipped.")] = Path(
        "results/bench_start.csv"
    ),
) -> None:
    """Time every step of a search before its first candidate is scored, on networks of torchvision."""
    from evoprune.bench.start_up import bench_start

    bench_start(out, names, typer.echo)


@bench.command()
def fitness(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Experiment that has model.weights.")] = Path(
        "experiments/bench_fitness.yaml"
    ),
    population: Annotated[
        Path, typer.Option(metavar="FILE", help="Recorded generation; recorded first if the file is missing.")
    ] = Path("results/bench_fitness_population.json"),
    generation: Annotated[int, typer.Option(help="Number of the generation to record.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Number of times that each method runs, in turn.")] = 3,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table.")] = Path("results/bench_fitness.csv"),
) -> None:
    """Time the scoring of a generation: as in a run, without each optimisation, and in plain PyTorch."""
    settings = load_config(config)
    from evoprune.bench.scoring_speed import bench_fitness, write_rows

    with make_progress(False, sys.stderr) as progress:
        rows = bench_fitness(settings, population, generation, rounds, progress, typer.echo)
    write_rows(out, rows)
    console = console_of_output()
    console.print(fitness_table(console, rows))
    typer.echo(f"table  {out}")


@bench.command()
def criteria(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Experiment that has model.weights.")] = Path(
        "experiments/bench_criteria.yaml"
    ),
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table.")] = Path("results/criteria_correlation.csv"),
) -> None:
    """Compare all importance criteria with the oracle, the change of the loss when a feature map is removed."""
    settings = load_config(config, parsed(overrides))
    from evoprune.bench.criteria_agreement import bench_criteria

    bench_criteria(settings, out, typer.echo)
    typer.echo(f"table  {out}")


@bench.command()
def proxies(
    config: Annotated[Path, typer.Argument(metavar="STUDY", help="The study, a YAML file.")] = Path(
        "experiments/study_fashion.yaml"
    ),
    choices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Shapes that the study chose (default: results/NAME_choices.csv)."),
    ] = None,
    target: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the MACs that they were chosen for.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed that they were chosen with.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table; shapes that it has already are skipped.")] = Path(
        "results/proxies.csv"
    ),
) -> None:
    """Compare what is known of a shape early (divergence, parameters, a short training) with what training makes of it.

    Every shape is trained for four passes over the training images. The same command resumes it.
    """
    from evoprune.bench.study.study_config import load_study

    settings = load_study(config)
    from evoprune.bench.study.proxies import bench_proxies
    from evoprune.bench.study.proxy_agreement import agreements, write_agreements

    chosen = choices or Path("results") / f"{settings.name}_choices.csv"
    bench_proxies(settings, chosen, target, seed, out, typer.echo)
    agreement = out.with_name(f"{out.stem}_agreement.csv")
    write_agreements(agreement, agreements(out))
    for path in (out, agreement):
        typer.echo(f"table  {path}")


@bench.command()
def overhead(
    population: Annotated[int, typer.Option(min=4, help="Number of candidates per generation.")] = 512,
    generations: Annotated[int, typer.Option(min=1, help="Number of generations after the first.")] = 15,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table.")] = Path("results/bench_overhead.csv"),
) -> None:
    """Time a search with a scorer that does nothing: the cost of the driver, Ray and the run folder."""
    from evoprune.bench.overhead import bench_overhead, write_row
    from evoprune.config.schema import WorkersConfig

    row = bench_overhead(population, generations, WorkersConfig())
    write_row(out, row)
    typer.echo(f"{row.candidates_per_second:.0f} candidates a second ({row.candidates} on {row.workers} workers)")


@bench.command()
def scale(
    simulated: Annotated[
        list[int] | None,
        typer.Option("--simulated", min=1, metavar="N", help="Simulated workers (default: 8 64 256 1000)."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds per simulated score (default: as measured).")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table.")] = Path("results/scale.csv"),
) -> None:
    """Measure the share of time in which workers are busy: real ones on this machine, and simulated ones that wait."""
    from evoprune.bench.scale import SIMULATED, bench_scale, write_rows

    write_rows(out, bench_scale(simulated or SIMULATED, seconds, typer.echo))
    typer.echo(f"table  {out}")


def study(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The study, a YAML file.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table; rows that it has already are skipped (default: results/NAME.csv)."),
    ] = None,
    timing: Annotated[
        bool,
        typer.Option("--time", help="At the end, time all networks against the unpruned one, on a quiet machine."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods on the same networks, targets and seeds, with equal retraining. The same command resumes it."""
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
