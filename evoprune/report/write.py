"""The report: one HTML file that needs no network, with the answer first, of one run or of several side by side."""

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
from evoprune.config.loading import round_configs
from evoprune.config.schema import Config
from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_environment
from evoprune.record.runs import Run, flat_config
from evoprune.report.comparison import Comparison
from evoprune.report.figures import Picture, search_pictures, survivor_pictures
from evoprune.report.pictures import write_pictures
from evoprune.report.tap_plots import taps

_TEMPLATES = "templates"


def write_report(run: Run) -> Path:
    """Draws a run's pictures and writes its report into its folder. Returns the report's path.

    Raises RunFolderError as `files.write_bytes`.
    """
    write_pictures(run)
    path = RunFolder(run.root).report
    files.write_text(path, report_html([run], path.parent))
    return path


def write_joint_report(runs: Sequence[Run], path: Path) -> Path:
    """Writes one report of several runs side by side to `path`, and nothing else. Raises likewise."""
    files.write_text(path, report_html(runs, path.parent))
    return path


def report_html(runs: Sequence[Run], place: Path) -> str:
    """The page of one or more runs. place: the folder that links start from. Raises RunFolderError without any run."""
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
    """A survivor as the page shows it. link: from the page to its weights. masks: with the taps that each one keeps."""

    row: dict[str, Any]
    link: str
    pictures: tuple[Picture, ...]
    layers: list[dict[str, Any]]
    masks: list[dict[str, Any]]

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the unpruned network; None where it was not measured."""
        before, after = self.row["baseline_latency_ms"], self.row["latency_ms"]
        return None if pd.isna(before) or pd.isna(after) else float(before) / float(after)


@dataclass(frozen=True)
class RunSection:
    """One run as the page shows it. place: the folder that links start from. prefix: of the section's HTML ids."""

    run: Run
    place: Path
    prefix: str

    @cached_property
    def survivors(self) -> list[Survivor]:
        return [self._survivor({str(key): value for key, value in row.items()}) for row in _records(self.run.survivors)]

    @cached_property
    def best(self) -> Survivor | None:
        """The cheapest survivor within the tolerance on the validation set after retraining; else the cheapest."""
        tolerance = round_configs(self.run.config)[-1].search.allowed_rise
        within = (s for s in self.survivors if s.row["mcr_retrained"] <= s.row["baseline_mcr_validation"] + tolerance)
        return next(within, next(iter(self.survivors), None))

    @property
    def rounds(self) -> int:
        return len(round_configs(self.run.config))

    @cached_property
    def pictures(self) -> list[Picture]:
        return search_pictures(self.run)

    @property
    def all_pictures(self) -> list[tuple[str, Picture]]:
        """Every picture of the section with its HTML id."""
        pictures = [*self.pictures, *(picture for survivor in self.survivors for picture in survivor.pictures)]
        return [(self.id_of(picture), picture) for picture in pictures]

    @property
    def saved_pictures(self) -> list[tuple[str, str]]:
        """Names and links of the picture files that are in the run folder."""
        return [(path.name, self.link(path)) for path in RunFolder(self.run.root).plots()]

    @cached_property
    def settings(self) -> list[tuple[str, Any, bool]]:
        """Every config key with its value, and whether that is another one than the default."""
        defaults = {key: field.default for key, field in known_keys(Config).items()}
        return [(key, value, _differs(value, defaults[key])) for key, value in flat_config(self.run.config).items()]

    @cached_property
    def environment(self) -> dict[str, Any]:
        return dict(read_environment(RunFolder(self.run.root)))

    @property
    def what(self) -> str:
        """What may be removed, in words."""
        space = round_configs(self.run.config)[-1].space
        parts = (
            ("feature maps", space.feature_maps),
            ("kernels", space.kernels),
            ("taps inside kernels", space.strides),
        )
        return ", ".join(name for name, searched in parts if searched)

    @property
    def seconds(self) -> float:
        """Spent on scoring, over all workers."""
        return float(self.run.generations["eval_seconds"].sum())

    def id_of(self, picture: Picture) -> str:
        return f"{self.prefix}-{picture.name}"

    def link(self, path: Path) -> str:
        """A file's address from the page."""
        return quote(Path(os.path.relpath(path, self.place)).as_posix())

    def _survivor(self, row: dict[str, Any]) -> Survivor:
        layers, masks = (frame[frame["key"] == row["key"]] for frame in (self.run.layers, self.run.stride_masks))
        glyphs = [{**mask, "taps": taps(pd.Series(mask)).tolist()} for mask in _records(masks)]
        pictures = tuple(survivor_pictures(row["key"], layers))
        link = self.link(RunFolder(self.run.root).survivor(row["key"]))
        return Survivor(row, link, pictures, _records(layers), glyphs)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


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
    """A file of ours, which goes into the page as it is."""
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
