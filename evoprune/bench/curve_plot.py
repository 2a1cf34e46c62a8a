"""MCR against compression ratio, a line a method: whole curves with their spread, as Blalock et al. (2020) ask for."""

from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

PANEL_INCHES = (6.2, 4.6)

MCR_TICKS = (4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 80)


def curve_figure(table: pd.DataFrame) -> Figure:
    """A column a network, a panel a family of methods; the best search is dashed in all of them.

    Lines are means over seeds of the test MCR after retraining against those of the compression ratio, bands go from
    the least to the most. table: of a study; rows without compensation are left out where there are others.
    """
    if (table.compensation == "gram").any():
        table = table[table.compensation == "gram"]
    networks = list(table.groupby("network", sort=False))
    families = [name for name in FAMILIES if (table.method.map(family) == name).any()]
    size = (PANEL_INCHES[0] * len(networks) + 1, PANEL_INCHES[1] * len(families))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(families), len(networks), squeeze=False)
    for column, (network, rows) in enumerate(networks):
        reference = _best_search(rows)
        for line, name in enumerate(families):
            methods = [method for method in rows.method.unique() if family(method) == name]
            _draw(panels[line, column], rows, methods, reference)
            panels[line, column].set_title(f"{network}: {name}", fontsize=10)
    return figure


FAMILIES = (
    "searches",
    "rankings, local",
    "rankings, global",
    "rankings in steps",
    "other starts of retraining",
    "single weights",
    "Torch-Pruning",
)


def family(method: str) -> str:
    """The panel that a method is in; what is no other's goes with the searches."""
    kind, _, rest = method.partition(":")
    if "@" in method:
        return "other starts of retraining"
    if kind == "ranking" and rest:
        return "rankings in steps" if rest.count(":") == 2 else f"rankings, {rest.partition(':')[2]}"
    return {"unstructured": "single weights", "torch_pruning": "Torch-Pruning"}.get(kind, "searches")


def _best_search(rows: pd.DataFrame) -> str | None:
    """The method among searches whose mean MCR over all targets is least."""
    searches = rows[[family(method) == "searches" for method in rows.method]]
    return None if searches.empty else str(searches.groupby("method").mcr_test.mean().idxmin())


def _draw(axis: Axes, rows: pd.DataFrame, methods: Sequence[str], reference: str | None) -> None:
    """One network and family."""
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
    """A method's mean, and its band from the least to the most seed."""
    by_target = rows.sort_values("target", ascending=False).groupby("target", sort=False)
    ratios = by_target.compression_ratio.mean()
    mean, least, most = (100 * by_target.mcr_test.agg(how) for how in ("mean", "min", "max"))
    axis.plot(ratios, mean, color=colour, marker="o", markersize=3, linewidth=1.3, label=label,
              linestyle="--" if dashed else "-")  # fmt: skip
    axis.fill_between(ratios, least, most, color=colour, alpha=0.15, linewidth=0)
