"""The commands that explain a search space and the keys of a config, and write an example of one."""

from collections.abc import Mapping
from enum import StrEnum
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Annotated

import typer

from evoprune.cli.options import Overrides, console_of_output, parsed
from evoprune.cli.printed_tables import frozen_lines, keys_table, layers_table, reasons_table
from evoprune.config.loading import load_config, round_configs
from evoprune.errors import ConfigError
from evoprune.plugins.kinds import REGISTRIES


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


class PluginKind(StrEnum):
    """The kinds of plug-ins that `evoprune list` lists."""

    criteria = "criteria"
    algorithms = "algorithms"
    costs = "costs"
    recipes = "recipes"
    tasks = "tasks"
    networks = "networks"
    datasets = "datasets"


_BUILT_IN: Mapping[PluginKind, str] = MappingProxyType(
    {
        PluginKind.criteria: "evoprune.criteria.importance_by_name",
        PluginKind.algorithms: "evoprune.search.algorithms",
        PluginKind.costs: "evoprune.costs.costs_by_name",
        PluginKind.recipes: "evoprune.training.recipes",
        PluginKind.tasks: "evoprune.tasks.tasks_by_name",
        PluginKind.networks: "evoprune.networks.zoo",
        PluginKind.datasets: "evoprune.data.load",
    }
)
"""The modules that import all built-in plug-ins of a kind."""


def list_plugins(
    kind: Annotated[PluginKind, typer.Argument(metavar="KIND", help=f"One of {', '.join(PluginKind)}.")],
) -> None:
    """List the built-in plug-ins of a kind, one a line. One of your own is module:attribute."""
    import_module(_BUILT_IN[kind])
    registry = next(registry for registry in REGISTRIES.values() if registry.plural == kind)
    described = registry.describe()
    width = max(len(name) for name, _ in described)
    for name, summary in described:
        typer.echo(f"{name:<{width}}  {summary}")


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
