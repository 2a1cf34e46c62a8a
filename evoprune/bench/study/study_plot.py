"""Summary of a study: mean and spread over seeds, as a table and as a picture."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evoprune.bench.study.curve_plot import curve_figure
from evoprune.record.files import write_bytes

DOTS_PER_INCH = 110

MOST_PANELS = 2
"""Highest number of targets with a panel each; of more, curves are drawn."""

COLOURS = {"gram": "tab:blue", "none": "tab:orange"}

GROUP = ["network", "target", "compensation", "method"]


def study_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means and spreads over seeds: a row for each network, target, compensation and method, the best method first.

    Args:
        table: of a study.

    Returns:
        With `mcr_before`, `mcr_test` and `cross_entropy_test` (NaN if no row has it) as means, and `spread`, the
        standard deviation of `mcr_test` (NaN for one seed).
    """
    groups = table.groupby(GROUP, sort=False)
    summary = groups.agg(
        seeds=("seed", "nunique"),
        macs_ratio=("macs_ratio", "mean"),
        mcr_before=("mcr_before", "mean"),
        mcr_test=("mcr_test", "mean"),
        spread=("mcr_test", "std"),
        baseline_mcr_test=("baseline_mcr_test", "mean"),
        cross_entropy_test=("cross_entropy_test", "mean"),
        seconds=("seconds", "mean"),
    ).reset_index()
    order = ["network", "target", "compensation", "mcr_test"]
    return summary.sort_values(order, ascending=[True, False, True, True], kind="stable").round(4)


def plot_study(table: pd.DataFrame, path: Path) -> None:
    """Writes a PNG: each method's MCR for one or two targets, a curve for each method (`curve_figure`) for more."""
    figure = curve_figure(table) if table.target.nunique() > MOST_PANELS else _panels(table)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    write_bytes(path, buffer.getvalue())


def _panels(table: pd.DataFrame) -> Figure:
    """A panel for each network and target, a line for each method, the best at the top.

    Dots are mean test MCRs after retraining, bars reach from the lowest to the highest seed, crosses are mean
    validation MCRs before retraining. Colours distinguish compensation.
    """
    cells = list(table.groupby(["network", "target"], sort=False))
    methods = max(cell.method.nunique() for _, cell in cells)
    columns = min(2, len(cells))
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(6.2 * columns, lines * (1.2 + 0.24 * methods)), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for panel, ((network, target), cell) in zip(panels, cells, strict=False):
        _draw(panel, cell)
        panel.set_title(f"{network}, {100 * float(str(target)):g}% of the MACs", fontsize=10)
    for panel in panels[len(cells) :]:
        panel.set_axis_off()
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def worst_first(cell: pd.DataFrame) -> list[str]:
    """Methods by their mean test MCR with compensation, or without it if they have no row with it, highest first."""
    means = cell.groupby(["method", "compensation"]).mcr_test.mean()  # gram comes before none
    return means.groupby("method").first().sort_values(ascending=False).index.tolist()


def _draw(axis: Axes, cell: pd.DataFrame) -> None:
    """Draws the rows of one network and target."""
    order = worst_first(cell)
    for compensation, rows in cell.groupby("compensation", sort=True):
        colour, shift = COLOURS[str(compensation)], 0.12 if compensation == "gram" else -0.12
        means = rows.groupby("method")[["mcr_before", "mcr_test"]].mean().reindex(order)
        least, most = (rows.groupby("method").mcr_test.agg(how).reindex(order) for how in ("min", "max"))
        places = [place + shift for place in range(len(order))]
        label = "with compensation" if compensation == "gram" else "without"
        axis.hlines(places, 100 * least, 100 * most, color=colour, linewidth=2, alpha=0.5)
        axis.scatter(100 * means.mcr_test, places, s=18, color=colour, label=f"test, {label}", zorder=3)
        axis.scatter(
            100 * means.mcr_before,
            places,
            s=18,
            marker="x",
            color=colour,
            alpha=0.6,
            label=f"validation, before retraining, {label}",
            zorder=2,
        )
    axis.axvline(100 * cell.baseline_mcr_test.mean(), color="0.5", linewidth=1, label="baseline")
    axis.set_yticks(range(len(order)), order, fontsize=8)
    axis.set_xscale("log")
    ticks = [5, 7, 10, 15, 20, 30, 50, 80]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("MCR, %", fontsize=8)
    axis.grid(alpha=0.25)
