"""MCR against compression ratio, a line for each method: whole curves with their spread (Blalock et al. 2020)."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from evoprune.bench.study.methods import SMALL_DENSE

PANEL_INCHES = (6.2, 4.6)

MCR_TICKS = (4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 80)


def curve_figure(table: pd.DataFrame) -> Figure:
    """A panel for each network and family of methods; the best search is dashed in every panel.

    Lines are means over seeds of the test MCR after retraining against means of the compression ratio; bands reach from
    the lowest to the highest seed.

    Args:
        table: of a study; rows without compensation are left out if there are others.
    """
    if (table.compensation == "gram").any():
        table = table[table.compensation == "gram"]
    networks = list(table.groupby("network", sort=False))
    panels = [
        (str(network), rows, name)
        for name in FAMILIES
        for network, rows in networks
        if (rows.method.map(family) == name).any()
    ]
    columns = max(2, len(networks))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for axis, (network, rows, name) in zip(axes, panels, strict=False):
        _draw(axis, rows, _shown(rows, name), _best_search(rows))
        axis.set_title(f"{network}: {name}", fontsize=10)
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


SEARCHES = "searches, and a small dense network"

FAMILIES = (
    SEARCHES,
    "rankings, local",
    "rankings, global",
    "rankings in steps",
    "other starts of retraining",
    "single weights",
    "Torch-Pruning",
)


def family(method: str) -> str:
    """The name of the panel of a method; methods of no other family go with the searches."""
    kind, _, rest = method.partition(":")
    if "@" in method:
        return "other starts of retraining"
    if kind == "ranking" and rest:
        return "rankings in steps" if rest.count(":") == 2 else f"rankings, {rest.partition(':')[2]}"
    return {"unstructured": "single weights", "torch_pruning": "Torch-Pruning"}.get(kind, SEARCHES)


def _shown(rows: pd.DataFrame, name: str) -> list[str]:
    """The methods of a family's panel: first the methods without schedule and start that they are variants of."""
    methods = [method for method in rows.method.unique() if family(method) == name]
    plain = [":".join(method.partition("@")[0].split(":")[:3]) for method in methods]
    return [method for method in dict.fromkeys([*plain, *methods]) if (rows.method == method).any()]


def _best_search(rows: pd.DataFrame) -> str | None:
    """The search of the lowest mean MCR over all targets."""
    searches = rows[[family(method) == SEARCHES and not method.startswith(SMALL_DENSE) for method in rows.method]]
    return None if searches.empty else str(searches.groupby("method").mcr_test.mean().idxmin())


def _draw(axis: Axes, rows: pd.DataFrame, methods: Sequence[str], reference: str | None) -> None:
    """Draws the panel of one network and family."""
    colours = colormaps["tab20" if len(methods) > 10 else "tab10"]
    for place, method in enumerate(methods):
        _line(axis, rows[rows.method == method], colours(place), method)
    if reference is not None and reference not in methods:
        _line(axis, rows[rows.method == reference], "black", reference, dashed=True)
    axis.axhline(100 * rows.baseline_mcr_test.mean(), color="0.5", linewidth=1, label="unpruned")
    ratios = sorted({round(1 / target) for target in rows.target})
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(ratios))
    axis.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(FixedLocator(MCR_TICKS))
    axis.set_yticks(MCR_TICKS, [str(tick) for tick in MCR_TICKS])
    axis.yaxis.set_minor_locator(NullLocator())
    low, high = 100 * rows.mcr_test.min(), 100 * rows.mcr_test.max()
    axis.set_ylim(0.95 * min(low, 100 * rows.baseline_mcr_test.mean()), 1.05 * high)
    axis.set_xlabel("compression ratio (parameters)", fontsize=8)
    axis.set_ylabel("test MCR after retraining, %", fontsize=8)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="upper left", ncols=2 if len(methods) > 8 else 1)


def _line(axis: Axes, rows: pd.DataFrame, colour: object, label: str, dashed: bool = False) -> None:
    """Draws a method's mean, and its band from the lowest to the highest seed."""
    by_target = rows.sort_values("target", ascending=False).groupby("target", sort=False)
    ratios = by_target.compression_ratio.mean()
    mean, least, most = (100 * by_target.mcr_test.agg(how) for how in ("mean", "min", "max"))
    axis.plot(ratios, mean, color=colour, marker="o", markersize=3, linewidth=1.3, label=label,
              linestyle="--" if dashed else "-")  # fmt: skip
    axis.fill_between(ratios, least, most, color=colour, alpha=0.15, linewidth=0)
