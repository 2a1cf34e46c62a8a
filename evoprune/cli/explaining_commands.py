"""The commands that explain a search space and the keys of a config, and write an example of one."""

from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from evoprune.cli.options import Overrides, console_of_output, parsed
from evoprune.cli.printed_tables import frozen_lines, keys_table, layers_table, reasons_table
from evoprune.config.loading import load_config, round_configs
from evoprune.errors import ConfigError


def inspect(
    subject: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file of an experiment, or a network: torchvision:resnet18.")
    ],
    overrides: Overrides = None,
    image_shape: Annotated[
        str, typer.Option("--images", metavar="CxHxW", help="Shape of the images that a named network reads.")
    ] = "3x224x224",
    classes: Annotated[int, typer.Option(min=2, help="Number of classes of a named network.")] = 1000,
) -> None:
    """Show the search space of a network without training it."""
    if subject.endswith((".yaml", ".yml")) or Path(subject).is_file():
        config = load_config(subject, parsed(overrides))
        from evoprune.pipeline import run as pipeline

        report = pipeline.inspect(config)
        rounds = len(round_configs(config))
    else:
        if overrides:
            raise ConfigError("--set goes with a config file; use --images and --classes for a named network")
        shape = _image_shape(image_shape)
        from evoprune.pipeline import run as pipeline

        report = pipeline.inspect_network(subject, shape, classes)
        rounds = 1
    console = console_of_output()
    console.print(f"{report.network}: {report.genes:,} genes in {report.groups:,} groups", markup=False)
    console.print(layers_table(console, report.layers, report.genes, report.macs, report.params))
    for line in frozen_lines(report.frozen):
        console.print(line, markup=False)
    if report.reasons:
        console.print(reasons_table(console, report.reasons))
    if rounds > 1:
        console.print(f"this is round 1 of {rounds}; each later round searches the network that the one before returns")


class HelpTopic(StrEnum):
    """The topics of `evoprune help`."""

    config = "config"


def explain(
    topic: Annotated[HelpTopic, typer.Argument(metavar="TOPIC", help="config: the keys of an experiment's YAML file.")],
) -> None:
    """Print all keys of a config with type, default, unit and meaning."""
    from evoprune.config.help import config_help

    console = console_of_output()
    console.print(keys_table(console, config_help()))


def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="The new file.")] = Path("experiment.yaml"),
) -> None:
    """Write an example of an experiment, and print how to run it."""
    text = (files("evoprune.config") / "example.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; give the name of a new file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); give another file") from error
    typer.echo(f"written  {path}")
    typer.echo(f"edit it, then run: evoprune run {quote(str(path))}")


def _image_shape(text: str) -> tuple[int, int, int]:
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and 0 < len(size) < 6 and int(size) for size in sizes):
        raise ConfigError(f"--images must be channels x height x width, as 3x224x224, not {text}")
    channels, height, width = (int(size) for size in sizes)
    return channels, height, width
