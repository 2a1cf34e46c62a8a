"""The commands `evoprune bench ...`: parse, call, print. Nothing heavy is imported before."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from evoprune.cli.options import Overrides, console_of_output, parsed
from evoprune.cli.printed_tables import fitness_table
from evoprune.cli.progress_display import make_progress
from evoprune.config.loading import load_config

bench = typer.Typer(help="Measurements that anyone can take again.", no_args_is_help=True)


@bench.command()
def inference(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The table; rows of other runs in it stay. A picture goes beside it.")
    ] = Path("results/whole_network_speed.csv"),
    seconds: Annotated[float, typer.Option(min=0.001, help="How long each network is timed in each round.")] = 0.2,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, metavar="N", help="With so many threads. [default: 1, and all cores]")
    ] = None,
) -> None:
    """Time survivors against the baseline: whole and layer by layer, in PyTorch and onnxruntime."""
    from evoprune.bench.inference import bench_inference

    bench_inference(folders, out, seconds, typer.echo, threads=threads)
    for path in (out, out.with_name(f"{out.stem}_layers.csv"), out.with_suffix(".png")):
        typer.echo(f"written  {path}")


@bench.command()
def spaces(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these networks.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table; networks that it holds are skipped.")] = Path(
        "results/torchvision_spaces.csv"
    ),
) -> None:
    """Find and prove the search space of torchvision's classification networks."""
    from evoprune.bench.spaces import torchvision_spaces

    torchvision_spaces(out, names, typer.echo)


@bench.command()
def fitness(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="With trained weights (model.weights).")] = Path(
        "experiments/bench_fitness.yaml"
    ),
    population: Annotated[
        Path, typer.Option(metavar="FILE", help="The recorded generation; where there is none, it is made.")
    ] = Path("results/bench_fitness_population.json"),
    generation: Annotated[int, typer.Option(help="Which generation is recorded.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Times that every method runs, in turn.")] = 3,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table.")] = Path("results/bench_fitness.csv"),
) -> None:
    """Time the scoring of a generation: ours, without each saving, and what people write."""
    settings = load_config(config)
    from evoprune.bench.scoring_speed import bench_fitness, write_rows

    with make_progress(False, sys.stderr) as progress:
        rows = bench_fitness(settings, population, generation, rounds, progress, progress.note)
    write_rows(out, rows)
    console = console_of_output()
    console.print(fitness_table(console, rows))
    typer.echo(f"table  {out}")


@bench.command()
def criteria(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="With trained weights (model.weights).")] = Path(
        "experiments/bench_criteria.yaml"
    ),
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table.")] = Path("results/criteria_correlation.csv"),
) -> None:
    """Compare every criterion of importance with the oracle: the change of the loss without each map."""
    settings = load_config(config, parsed(overrides))
    from evoprune.bench.criteria_agreement import bench_criteria

    bench_criteria(settings, out, typer.echo)
    typer.echo(f"table  {out}")


@bench.command()
def overhead(
    population: Annotated[int, typer.Option(min=4, help="Candidates a generation.")] = 512,
    generations: Annotated[int, typer.Option(min=1, help="Generations after the first.")] = 15,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table.")] = Path("results/bench_overhead.csv"),
) -> None:
    """Time a search whose scorer does nothing: what driver, Ray and record cost."""
    from evoprune.bench.overhead import bench_overhead, write_row
    from evoprune.config.schema import WorkersConfig

    row = bench_overhead(population, generations, WorkersConfig())
    write_row(out, row)
    typer.echo(f"{row.candidates_per_second:.0f} candidates a second ({row.candidates} on {row.workers} workers)")


@bench.command()
def scale(
    simulated: Annotated[
        list[int] | None, typer.Option("--simulated", min=1, metavar="N", help="So many. [default: 8 64 256 1000]")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="What a simulated score takes. [default: as measured]")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table.")] = Path("results/scale.csv"),
) -> None:
    """Share of time that workers are busy: this machine's cores, and simulated ones that only wait."""
    from evoprune.bench.scale import SIMULATED, bench_scale, write_rows

    write_rows(out, bench_scale(simulated or SIMULATED, seconds, typer.echo))
    typer.echo(f"table  {out}")
