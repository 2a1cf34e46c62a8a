"""Arguments and options that several commands have, and the console of standard output."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from evoprune.config.loading import parse_override

_PIPE_WIDTH = 1000

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config, e.g. search.population=16."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show warnings, but no progress.")]


def parsed(overrides: Sequence[str] | None) -> dict[str, object]:
    """Overrides by key.

    Raises:
        ConfigError: An override is not KEY=VALUE.
    """
    return dict(parse_override(text) for text in overrides or ())


def console_of_output() -> Console:
    """A console on standard output; lines are not folded unless it is a terminal, or COLUMNS gives a width."""
    has_width = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Console(highlight=False, width=None if has_width else _PIPE_WIDTH)
