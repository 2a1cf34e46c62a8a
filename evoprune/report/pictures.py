"""The pictures of a run as files: PNG for the screen, SVG for papers."""

import io
from collections.abc import Callable, Mapping

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.runs import Run
from evoprune.report.plots import (
    plot_diversity,
    plot_feasible_share,
    plot_front,
    plot_hypervolume,
    plot_kept_by_generation,
    plot_layer_times,
    plot_layers,
    plot_moving_front,
    plot_rate,
)
from evoprune.report.tap_plots import plot_stride_masks

DOTS_PER_INCH = 120


def figures(run: Run) -> dict[str, Figure]:
    """The pictures that a run has the tables for, by name. Pictures of a survivor show the cheapest one."""
    drawing: dict[str, Callable[[], Figure]] = {}
    if not run.candidates.empty:
        drawing |= {
            "front": lambda: _front(run),
            "generations": lambda: _moving_front(run),
            "search": lambda: _search(run),
            "kept_by_generation": lambda: _kept(run),
        }
    if not run.survivors.empty:
        drawing["layers"] = lambda: _layers(_cheapest(run, run.layers))
        if not run.stride_masks.empty:
            drawing["stride_masks"] = lambda: _stride_masks(_cheapest(run, run.stride_masks))
        if run.layers["latency_ms"].notna().any():
            drawing["layer_times"] = lambda: _layer_times(_cheapest(run, run.layers))
    return {name: draw() for name, draw in drawing.items()}


def write_pictures(run: Run) -> None:
    """Draws the pictures of a run into its folder's plots/.

    Raises:
        RunFolderError: a file cannot be written.
    """
    folder = RunFolder(run.root)
    for name, figure in figures(run).items():
        for form in ("png", "svg"):
            files.write_bytes(folder.plot(name, form), _rendered(figure, form))


def _rendered(figure: Figure, form: str) -> bytes:
    """The picture as a file's content; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    metadata: Mapping[str, None] = {"Date": None} if form == "svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "evoprune"}):
        figure.savefig(buffer, format=form, dpi=DOTS_PER_INCH, metadata=dict(metadata))
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _front(run: Run) -> Figure:
    figure = _figure(7, 5)
    axis = figure.subplots()
    plot_front(run.candidates, run.survivors, axis, run.cost, run.baseline_point)
    axis.set_title(f"{run.config.name}: MCR against cost")
    return figure


def _moving_front(run: Run) -> Figure:
    figure = _figure(11, 4.5)
    left, right = figure.subplots(1, 2)
    plot_moving_front(run.candidates, left, run.cost)
    plot_hypervolume(run.generations, right)
    return figure


def _search(run: Run) -> Figure:
    figure = _figure(12, 3.5)
    left, middle, right = figure.subplots(1, 3)
    plot_feasible_share(run.generations, left)
    plot_diversity(run.generations, middle)
    plot_rate(run.generations, right)
    return figure


def _kept(run: Run) -> Figure:
    figure = _figure(8, _tall(run.kept_by_generation["layer"].nunique(), 0.28))
    plot_kept_by_generation(run.kept_by_generation, figure.subplots())
    return figure


def _layers(layers: pd.DataFrame) -> Figure:
    figure = _figure(7, _tall(len(layers), 0.38))
    plot_layers(layers, figure.subplots())
    return figure


def _layer_times(layers: pd.DataFrame) -> Figure:
    figure = _figure(7, _tall(len(layers), 0.33))
    plot_layer_times(layers, figure.subplots())
    return figure


def _stride_masks(masks: pd.DataFrame) -> Figure:
    figure = _figure(9, _tall(masks["layer"].nunique(), 1.1))
    plot_stride_masks(masks, figure.subplots())
    return figure


def _cheapest(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["key"] == run.survivors["key"].iloc[0]]


def _tall(rows: int, inches_a_row: float) -> float:
    return min(1.8 + rows * inches_a_row, 40)
