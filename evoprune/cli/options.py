"""What commands have in common: arguments, options, where they print."""

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
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, as search.population=16."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


def parsed(overrides: Sequence[str] | None) -> dict[str, object]:
    """Overrides by key. Raises ConfigError."""
    return dict(parse_override(text) for text in overrides or ())


def console_of_output() -> Console:
    """Standard output; where it is no terminal, nothing is folded to a width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
