"""Plots of a search. Each function draws a frame on a matplotlib axis and returns the axis.

Colours are those of Okabe and Ito, which are safe for colour-blind readers, and viridis. No plot relies on colour
alone: markers or line styles differ as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from evoprune.record.costs import CostInfo
from evoprune.record.fronts import front

BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#999999"
_BELOW: dict[str, Any] = {
    "loc": "upper center",
    "bbox_to_anchor": (0.5, 0),
    "borderaxespad": 4.5,  # in font sizes: below ticks and axis label, however tall the axis is
    "ncols": 3,
    "frameon": False,
    "fontsize": "small",
}
MOST_FRONTS = 6
MOST_DRAWN = 20_000
"""The largest number of candidates in one picture; of more, a fixed random sample is drawn."""

MACS = CostInfo("macs", "macs", "MACs of one image")


def plot_front(
    candidates: pd.DataFrame,
    survivors: pd.DataFrame,
    axis: Axes,
    cost: CostInfo = MACS,
    baseline: tuple[float, float] | None = None,
) -> Axes:
    """MCR on the validation set against cost: all candidates, the front, survivors before and after retraining.

    Candidates whose scoring stopped early have no MCR and are not drawn; the legend gives their number.

    Args:
        candidates: a run's candidates frame.
        survivors: a run's survivors frame; may be empty.
        axis: the axis to draw on.
        cost: the cost on the x axis.
        baseline: cost and MCR (a fraction) of the unpruned network.
    """
    column = cost.column
    scored = drawn(candidates.drop_duplicates("key").dropna(subset="mcr"))
    feasible = scored["feasible"].fillna(False).to_numpy(dtype=bool)
    for rows, colour, marker, label in (
        (scored[~feasible], GREY, "x", "candidate beyond the tolerance"),
        (scored[feasible], BLUE, "o", "feasible candidate"),
    ):
        if len(rows):
            axis.scatter(
                rows[column], rows["mcr"], s=12, c=colour, marker=marker, linewidths=0.8, alpha=0.6, label=label,
                rasterized=True,
            )  # fmt: skip
    found = front(candidates, column)
    axis.step(found[column], found["mcr"], where="post", color="black", linewidth=1.2, label="front")
    for _, row in survivors.iterrows():
        axis.annotate(
            "", (row[column], row["mcr_retrained"]), (row[column], row["mcr_search"]),
            arrowprops={"arrowstyle": "->", "color": VERMILION},
        )  # fmt: skip
    if len(survivors):
        axis.scatter(
            survivors[column], survivors["mcr_search"], s=60, facecolors="none", edgecolors=VERMILION, marker="D",
            label="survivor before retraining", zorder=3,
        )  # fmt: skip
        axis.scatter(
            survivors[column], survivors["mcr_retrained"], s=60, c=VERMILION, marker="D", zorder=3,
            label="survivor after retraining",
        )  # fmt: skip
    if baseline is not None:
        axis.scatter(*baseline, s=160, c=ORANGE, edgecolors="black", marker="*", label="unpruned network", zorder=4)
    stopped = int(candidates.drop_duplicates("key")["mcr"].isna().sum())
    title = f"not drawn: {stopped:,} candidates whose scoring stopped early" if stopped else None
    axis.legend(title=title, title_fontsize="small", **_BELOW)
    axis.set_title("MCR against cost")
    axis.set_xlim(left=0)
    return _mcr_against(axis, cost)


def plot_moving_front(candidates: pd.DataFrame, axis: Axes, cost: CostInfo = MACS) -> Axes:
    """The fronts up to at most six generations, including the first and the last one."""
    generations = spread(sorted(set(candidates["generation"])), MOST_FRONTS)
    colours = colormaps["viridis"](np.linspace(0, 0.85, max(len(generations), 1)))
    styles = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
    for generation, colour, style in zip(generations, colours, styles[-len(generations) :], strict=False):
        found = front(candidates[candidates["generation"] <= generation], cost.column)
        axis.step(
            found[cost.column], found["mcr"], where="post", color=colour, linestyle=style, marker=".",
            markersize=4, linewidth=1.4, label=f"generation {generation}",
        )  # fmt: skip
    if generations:
        axis.legend(fontsize="small")
    axis.set_title("The front through the generations")
    return _mcr_against(axis, cost)


def plot_hypervolume(generations: pd.DataFrame, axis: Axes) -> Axes:
    """The hypervolume of the front, as a share of the box up to the unpruned cost and the highest MCR allowed."""
    axis.plot(generations["generation"], generations["hypervolume"].astype("float64"), color=BLUE, marker="o", ms=4)
    axis.set_title("Hypervolume of the front")
    axis.set_ylabel("share of the box (0..1)")
    return _by_generation(axis)


def plot_kept_by_generation(kept: pd.DataFrame, axis: Axes) -> Axes:
    """Heat map of the share of each layer's weights that the front keeps. kept: `Run.kept_by_generation`."""
    table = kept.pivot(index="layer", columns="generation", values="kept_fraction").reindex(kept["layer"].unique())
    mesh = axis.pcolormesh(table.to_numpy(dtype=float), cmap="viridis", vmin=0, vmax=1)
    axis.set_yticks(np.arange(len(table)) + 0.5, table.index, fontsize=_small_if_many(len(table)))
    columns = spread(range(len(table.columns)), 13)
    axis.set_xticks(np.array(columns) + 0.5, table.columns[columns])
    axis.invert_yaxis()
    axis.set_title("Share of each layer's weights that the front keeps")
    axis.set_xlabel("generation")
    if axis.figure is not None:
        axis.figure.colorbar(mesh, ax=axis, label="kept, mean over the front", format=PercentFormatter(1))
    return axis


def plot_layers(layers: pd.DataFrame, axis: Axes) -> Axes:
    """Bars: the share of each layer's maps, kernels and weights in one survivor. layers: its rows of `Run.layers`."""
    places = np.arange(len(layers))
    bars = (("maps", BLUE, ""), ("kernels", ORANGE, "//"), ("taps", GREEN, ".."))
    for step, (what, colour, hatch) in enumerate(bars):
        axis.barh(
            places + 0.27 * (step - 1), layers[f"{what}_kept"] / layers[what], 0.27, color=colour, hatch=hatch,
            edgecolor="white", linewidth=0, label="weights" if what == "taps" else what,
        )  # fmt: skip
    axis.set_yticks(places, layers["layer"], fontsize=_small_if_many(len(layers)))
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel("share of the unpruned layer")
    axis.set_title(f"Share of each layer in survivor {_short(layers)}")
    axis.legend(**_BELOW)
    return axis


def plot_layer_times(layers: pd.DataFrame, axis: Axes) -> Axes:
    """The time of each layer (ms), unpruned and in one survivor. layers: its rows of `Run.layers`."""
    places = np.arange(len(layers))
    for offset, column, colour, hatch, label in (
        (-0.2, "baseline_latency_ms", GREY, "", "unpruned network"),
        (0.2, "latency_ms", BLUE, "//", "survivor"),
    ):
        times = layers[column].astype("float64")
        axis.barh(places + offset, times, 0.4, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=label)
    axis.set_yticks(places, layers["layer"], fontsize=_small_if_many(len(layers)))
    axis.invert_yaxis()
    axis.set_xlabel("time of one image (ms)")
    axis.set_title(f"Time by layer, survivor {_short(layers)}")
    axis.legend(fontsize="small")
    return axis


def plot_feasible_share(generations: pd.DataFrame, axis: Axes) -> Axes:
    """The share of each generation's candidates that are within the tolerance."""
    axis.plot(generations["generation"], generations["feasible_share"], color=GREEN, marker="o", ms=4)
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_title("Feasible candidates")
    axis.set_ylabel("share of the generation")
    return _by_generation(axis)


def plot_diversity(generations: pd.DataFrame, axis: Axes) -> Axes:
    """The mean share of genes in which two candidates of a generation differ."""
    axis.plot(generations["generation"], generations["diversity"], color=PURPLE, marker="o", ms=4)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set_title("Diversity")
    axis.set_ylabel("share of genes that differ")
    return _by_generation(axis)


def plot_rate(generations: pd.DataFrame, axis: Axes) -> Axes:
    """The number of evaluations per second of one worker, by generation, without cached candidates."""
    axis.plot(generations["generation"], evaluations_a_second(generations), color=BLUE, marker="o", ms=4)
    axis.set_ylim(bottom=0)
    axis.set_title("Evaluations per second, one worker")
    axis.set_ylabel("evaluations/s")
    return _by_generation(axis)


def evaluations_a_second(generations: pd.DataFrame) -> pd.Series:
    """The number of candidates scored per second of scoring; missing for generations without an evaluation."""
    return generations["evaluated"] / generations["eval_seconds"].replace(0, np.nan)


def drawn(candidates: pd.DataFrame) -> pd.DataFrame:
    """The candidates, or a fixed random sample of MOST_DRAWN of them, in their order."""
    return candidates.sample(MOST_DRAWN, random_state=0).sort_index() if len(candidates) > MOST_DRAWN else candidates


def spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` evenly spread values, including the first and the last one."""
    if len(values) <= count:
        return list(values)
    return [values[place] for place in np.linspace(0, len(values) - 1, count).round().astype(int)]


def _mcr_against(axis: Axes, cost: CostInfo) -> Axes:
    axis.set_xlabel(cost.label)
    axis.set_ylabel("MCR on the validation set")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    return axis


def _by_generation(axis: Axes) -> Axes:
    axis.set_xlabel("generation")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    return axis


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:g} {unit}"
    return f"{number:g}"


def _small_if_many(rows: int) -> str:
    return "xx-small" if rows > 40 else "x-small" if rows > 20 else "medium"


def _short(layers: pd.DataFrame) -> str:
    return str(layers["key"].iloc[0])[:8] if len(layers) else "-"
