"""The report of one run or of several runs: one HTML file that needs no network and begins with the result."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evoprune.config.complaints import known_keys
from evoprune.config.schema import Config
from evoprune.errors import RunFolderError, masked
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_environment
from evoprune.record.runs import Run, flat_config
from evoprune.report.comparison import Comparison
from evoprune.report.figures import Picture, search_pictures, survivor_pictures
from evoprune.report.pictures import write_pictures
from evoprune.report.tap_plots import taps

_TEMPLATES = "templates"
_IN_THE_TEXT = ("cores", "cpu", "memory_gib", "torch", "date")
"""Entries of environment.json that the page's text names."""


def write_report(run: Run) -> Path:
    """Draws the pictures of a run and writes its report, both into the run folder.

    Returns:
        The path of the report.

    Raises:
        RunFolderError: a file cannot be read or written.
    """
    write_pictures(run)
    path = RunFolder(run.root).report
    files.write_text(path, report_html([run], path.parent))
    return path


def write_joint_report(runs: Sequence[Run], path: Path) -> Path:
    """Writes one report of several runs to `path`, and no other file. Returns `path`.

    Raises:
        RunFolderError: there is no run, or a file cannot be read or written.
    """
    files.write_text(path, report_html(runs, path.parent))
    return path


def report_html(runs: Sequence[Run], place: Path) -> str:
    """The HTML page of one or more runs.

    Args:
        runs: the runs, in the order of the page.
        place: the folder that links are relative to.

    Raises:
        RunFolderError: there is no run, or one of a run's files cannot be read.
    """
    if not runs:
        raise RunFolderError("a report needs at least one run; give run folders, or a folder with some below it")
    sections = [RunSection(run, place, f"run{number}") for number, run in enumerate(runs)]
    comparison = Comparison(runs) if len(runs) > 1 else None
    pictures = [picture for section in sections for picture in section.all_pictures]
    figures = {name: dict(picture.figure) for name, picture in pictures}
    if comparison is not None:
        figures |= {picture.name: dict(picture.figure) for picture in comparison.pictures}
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=runs[0].config.name if comparison is None else f"{len(runs)} runs",
            sections=sections,
            comparison=comparison,
            figures=figures,
            style=_verbatim("report.css"),
            script=_verbatim("report.js"),
            plotly=Markup(get_plotlyjs()),
        )
    )
    return str(page)


@dataclass(frozen=True)
class Survivor:
    """The page's data of one survivor.

    Attributes:
        row: its row of the survivors frame.
        link: from the page to its weights.
        layers: its rows of `Run.layers`.
        masks: its rows of `Run.stride_masks`, each with the `taps` that it keeps.
    """

    row: dict[str, Any]
    link: str
    pictures: tuple[Picture, ...]
    layers: list[dict[str, Any]]
    masks: list[dict[str, Any]]

    @property
    def speedup(self) -> float | None:
        """The unpruned network's latency divided by the survivor's; None if one was not measured."""
        before, after = self.row["baseline_latency_ms"], self.row["latency_ms"]
        return None if pd.isna(before) or pd.isna(after) else float(before) / float(after)


@dataclass(frozen=True)
class RunSection:
    """The page's data of one run.

    Attributes:
        place: the folder that links are relative to.
        prefix: of the HTML ids in this section.
    """

    run: Run
    place: Path
    prefix: str

    @cached_property
    def survivors(self) -> list[Survivor]:
        """In the order of the table: the cheapest first."""
        return [self._survivor({str(key): value for key, value in row.items()}) for row in _records(self.run.survivors)]

    @cached_property
    def best(self) -> Survivor | None:
        """The cheapest survivor within the tolerance on the validation set after retraining, else the cheapest one."""
        tolerance = self.run.rounds[-1].search.allowed_rise
        within = (s for s in self.survivors if s.row["mcr_retrained"] <= s.row["baseline_mcr_validation"] + tolerance)
        return next(within, next(iter(self.survivors), None))

    @cached_property
    def pictures(self) -> list[Picture]:
        """The pictures of the search."""
        return search_pictures(self.run)

    @property
    def all_pictures(self) -> list[tuple[str, Picture]]:
        """All pictures of the section with their HTML ids."""
        pictures = [*self.pictures, *(picture for survivor in self.survivors for picture in survivor.pictures)]
        return [(self.id_of(picture), picture) for picture in pictures]

    @property
    def saved_pictures(self) -> list[tuple[str, str]]:
        """Names and links of the picture files in the run folder."""
        return [(path.name, self.link(path)) for path in RunFolder(self.run.root).plots()]

    @cached_property
    def settings(self) -> list[tuple[str, Any, bool]]:
        """Each config key with its value (secrets of URLs masked), and whether it differs from the default."""
        defaults = {key: field.default for key, field in known_keys(Config).items()}
        values = flat_config(self.run.config)
        return [(key, _masked(value), _differs(value, defaults[key])) for key, value in values.items()]

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The run's environment.json; entries that the page needs are None if they are missing."""
        entries = read_environment(RunFolder(self.run.root))
        return {name: _masked(value) for name, value in (dict.fromkeys(_IN_THE_TEXT) | dict(entries)).items()}

    @property
    def what(self) -> str:
        """The parts that the search may remove, in words."""
        space = self.run.rounds[-1].space
        parts = (
            ("feature maps", space.feature_maps),
            ("kernels", space.kernels),
            ("taps inside kernels", space.strides),
        )
        return ", ".join(name for name, searched in parts if searched)

    @property
    def seconds(self) -> float:
        """The time that all workers spent on scoring, in seconds."""
        return float(self.run.generations["eval_seconds"].sum())

    def id_of(self, picture: Picture) -> str:
        """The identifier of a picture's element on the page."""
        return f"{self.prefix}-{picture.name}"

    def link(self, path: Path) -> str:
        """The link from the page to a file."""
        return quote(Path(os.path.relpath(path, self.place)).as_posix())

    def _survivor(self, row: dict[str, Any]) -> Survivor:
        layers, masks = (frame[frame["key"] == row["key"]] for frame in (self.run.layers, self.run.stride_masks))
        glyphs = [{**mask, "taps": taps(pd.Series(mask)).tolist()} for mask in _records(masks)]
        pictures = tuple(survivor_pictures(row["key"], layers))
        link = self.link(RunFolder(self.run.root).survivor(row["key"]))
        return Survivor(row, link, pictures, _records(layers), glyphs)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _masked(value: Any) -> Any:
    return masked(value) if isinstance(value, str) else value


def _differs(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return bool(value != default)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evoprune.report", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": _share, "count": _count, "number": _number, "times": _times}
    return environment


def _verbatim(name: str) -> Markup:
    """A file of the package, inserted into the page unescaped."""
    text = resources.files("evoprune.report").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")
    return Markup(text)


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _share(value: Any, digits: int = 2) -> str:
    return "-" if _missing(value) else f"{value:.{digits}%}"


def _number(value: Any, digits: int = 2) -> str:
    return "-" if _missing(value) else f"{value:.{digits}f}"


def _times(value: Any) -> str:
    return "-" if _missing(value) else f"{value:.2f} times"


def _count(value: Any) -> str:
    if _missing(value):
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"
