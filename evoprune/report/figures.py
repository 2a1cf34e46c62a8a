"""The interactive pictures of the report: plotly figures as plain data and layout, drawn by the browser.

A trace with `meta` "ink" takes the text colour of the page. Text in a figure is escaped, because plotly reads tags.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evoprune.record.fronts import front
from evoprune.record.runs import Run
from evoprune.report.plots import (
    BLUE,
    GREEN,
    GREY,
    MOST_DRAWN,
    MOST_FRONTS,
    ORANGE,
    PURPLE,
    VERMILION,
    drawn,
    evaluations_a_second,
    spread,
)

Trace = dict[str, Any]
INK = "ink"
"""In place of a colour: the text colour of the page, which depends on its light or dark theme."""

DASHES = ("dash", "dashdot", "dot", "longdash", "longdashdot", "solid")
SETTING_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, "#56B4E9", GREY)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star", "cross")


@dataclass(frozen=True)
class Picture:
    """A figure with its title and caption.

    Attributes:
        name: unique on its page, and valid in an HTML id.
        figure: plotly's `data` and `layout`.
        height: in pixels.
    """

    name: str
    title: str
    caption: str
    figure: Mapping[str, Any]
    height: int = 380


def search_pictures(run: Run) -> list[Picture]:
    """The pictures of a search; empty before its first generation."""
    if run.candidates.empty:
        return []
    return [_front(run), _moving_front(run), _hypervolume(run), *_generation_lines(run), _kept(run)]


def survivor_pictures(key: str, layers: pd.DataFrame) -> list[Picture]:
    """The pictures of one survivor: the kept share of each layer, and the time of each layer if it was measured.

    Args:
        key: the survivor's key.
        layers: the survivor's rows of `Run.layers`.
    """
    pictures = [_kept_bars(key, layers)]
    if layers["latency_ms"].notna().any():
        pictures.append(_time_bars(key, layers))
    return pictures


def survivors_of_settings(points: pd.DataFrame) -> Picture:
    """MCR against MACs of the survivors of several runs.

    Args:
        points: one row per survivor; columns setting, run, key, macs_ratio, mcr (both fractions).
    """
    traces = [
        _scatter(
            str(setting), rows["macs_ratio"], rows["mcr"], colour, "markers", symbol=symbol, size=11,
            customdata=rows[["run", "key"]].map(_text).to_numpy().tolist(),
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>MCR %{y:.2%}, %{x:.1%} of the MACs",
        )
        for (setting, rows), (colour, symbol) in _styled(points)
    ]  # fmt: skip
    layout = _layout(_percent("share of the unpruned MACs") | {"rangemode": "tozero"}, _percent("MCR after retraining"))
    caption = "On the test set, or on the validation set if a run has no test set."
    return Picture("settings-survivors", "Survivors of all runs", caption, {"data": traces, "layout": layout}, 420)


def hypervolume_of_settings(volumes: pd.DataFrame) -> Picture:
    """Mean hypervolume by generation, with one standard deviation over the seeds.

    Args:
        volumes: one row per run and generation; columns setting, run, generation, hypervolume.
    """
    traces: list[Trace] = []
    for (setting, rows), (colour, _) in _styled(volumes):
        by_generation = rows.groupby("generation")["hypervolume"].agg(["mean", "std"]).astype("float64").fillna(0.0)
        low, high = (by_generation["mean"] + sign * by_generation["std"] for sign in (-1, 1))
        there_and_back = [*by_generation.index.tolist(), *by_generation.index.tolist()[::-1]]
        band = {"x": there_and_back, "y": [*low.tolist(), *high.tolist()[::-1]], "fill": "toself", "fillcolor": colour}
        hidden = {"mode": "none", "hoverinfo": "skip", "showlegend": False}
        traces.append({"type": "scatter", **band, "opacity": 0.2, **hidden})
        traces.append(_scatter(str(setting), by_generation.index, by_generation["mean"], colour, "lines+markers"))
    layout = _layout(_axis("generation"), _axis("hypervolume, share of the box"))
    caption = "Mean over seeds; the band is one standard deviation on either side."
    return Picture("settings-hypervolume", "Hypervolume of the front", caption, {"data": traces, "layout": layout})


def _front(run: Run) -> Picture:
    cost = run.cost.column
    unique = run.candidates.drop_duplicates("key")
    scored = drawn(unique.dropna(subset="mcr"))
    feasible = scored["feasible"].fillna(False).to_numpy(dtype=bool)
    found = front(run.candidates, cost)
    traces = [
        _candidates("candidate beyond the tolerance", scored[~feasible], cost, GREY, "x-thin-open"),
        _candidates("feasible candidate", scored[feasible], cost, BLUE, "circle"),
        _scatter("front", found[cost], found["mcr"], INK, "lines", shape="hv") | {"hoverinfo": "skip"},
    ]
    if not run.survivors.empty:
        traces += _survivors(run.survivors, cost)
    if run.baseline_point:
        point = pd.DataFrame([run.baseline_point], columns=["cost", "mcr"])
        traces.append(_scatter("unpruned network", point["cost"], point["mcr"], ORANGE, "markers", "star", 15))
    stopped = int(unique["mcr"].isna().sum())
    caption = "MCR on the validation set. Arrows lead from survivors before retraining to the same survivors after it."
    if run.config.search.judged_by == "divergence":
        caption += " Candidates were compared by the divergence of their outputs, so survivors may lie above the front."
    if stopped:
        caption += f" {stopped:,} candidates are not drawn: their scoring stopped early, so their MCR is unknown."
    if len(unique) - stopped > MOST_DRAWN:
        caption += f" A random sample of {MOST_DRAWN:,} of the {len(unique) - stopped:,} candidates is drawn."
    layout = _layout(_axis(run.cost.label) | {"tickformat": "~s", "rangemode": "tozero"}, _percent("MCR"))
    layout["annotations"] = [
        {
            **{"x": row[cost], "y": row["mcr_retrained"], "ax": row[cost], "ay": row["mcr_search"]},
            **{"xref": "x", "yref": "y", "axref": "x", "ayref": "y", "text": ""},
            **{"showarrow": True, "arrowhead": 2, "arrowcolor": VERMILION, "standoff": 6},
        }
        for row in run.survivors.to_dict("records")
    ]
    return Picture("front", "MCR against cost", caption, {"data": traces, "layout": layout}, 480)


def _candidates(name: str, rows: pd.DataFrame, cost: str, colour: str, symbol: str) -> Trace:
    known = rows[["key", "generation", "errors", "images", "macs", "params", "bytes"]]
    return _scatter(
        name, rows[cost], rows["mcr"], colour, "markers", symbol=symbol, size=6,
        customdata=known.astype(object).to_numpy().tolist(),
        hovertemplate=(
            "%{customdata[0]}<br>generation %{customdata[1]}<br>MCR %{y:.2%}: %{customdata[2]} of %{customdata[3]}"
            "<br>%{customdata[4]:.4s} MACs<br>%{customdata[5]:.4s} parameters<br>%{customdata[6]:.4s} bytes"
        ),
    )  # fmt: skip


def _survivors(survivors: pd.DataFrame, cost: str) -> list[Trace]:
    keys = survivors[["key"]].to_numpy().tolist()
    hover = " %{customdata[0]}<br>MCR %{y:.2%}<br>%{x:.4s}"
    return [
        _scatter(name, survivors[cost], survivors[column], VERMILION, "markers", symbol, 11, keys, name + hover)
        for name, column, symbol in (
            ("survivor before retraining", "mcr_search", "diamond-open"),
            ("survivor after retraining", "mcr_retrained", "diamond"),
        )
    ]


def _moving_front(run: Run) -> Picture:
    cost = run.cost.column
    generations = spread(sorted(set(run.candidates["generation"])), MOST_FRONTS)
    colours = ("#8C6BB1", "#5778B8", "#3A93B5", "#35A779", "#7DB84B", "#C9A800")  # seen on white and on black
    traces = []
    styles = list(zip(colours, DASHES, strict=True))[-len(generations) :]
    for generation, (colour, dash) in zip(generations, styles, strict=True):
        found = front(run.candidates[run.candidates["generation"] <= generation], cost)
        line = _scatter(f"generation {generation}", found[cost], found["mcr"], colour, "lines+markers", shape="hv")
        line["line"]["dash"] = dash
        traces.append(line | {"hovertemplate": "MCR %{y:.2%}<br>%{x:.4s}"})
    layout = _layout(_axis(run.cost.label) | {"tickformat": "~s"}, _percent("MCR"))
    caption = "The front of all candidates scored up to the end of each generation."
    return Picture("moving-front", "The front through the generations", caption, {"data": traces, "layout": layout})


def _hypervolume(run: Run) -> Picture:
    caption = (
        "The area that the front dominates, as a share of the box from zero cost and zero errors to the unpruned "
        "network's cost and the highest MCR allowed."
    )
    return _line(run, "hypervolume", "Hypervolume of the front", run.generations["hypervolume"], BLUE, caption)


def _generation_lines(run: Run) -> list[Picture]:
    rate = evaluations_a_second(run.generations)
    return [
        _line(run, "feasible", "Feasible candidates", run.generations["feasible_share"], GREEN, "", percent=True),
        _line(
            run, "diversity", "Diversity", run.generations["diversity"], PURPLE,
            "The mean share of genes in which two candidates of a generation differ.", percent=True,
        ),
        _line(run, "rate", "Evaluations per second", rate, BLUE, "Of one worker while it scores."),
    ]  # fmt: skip


def _line(
    run: Run, name: str, title: str, values: pd.Series, colour: str, caption: str, percent: bool = False
) -> Picture:
    trace = _scatter(title, run.generations["generation"], values, colour, "lines+markers") | {"showlegend": False}
    axis = _percent("") | {"rangemode": "tozero"} if percent else _axis("") | {"rangemode": "tozero"}
    return Picture(name, title, caption, {"data": [trace], "layout": _layout(_axis("generation"), axis)}, 280)


def _kept(run: Run) -> Picture:
    kept = run.kept_by_generation
    table = kept.pivot(index="layer", columns="generation", values="kept_fraction").reindex(kept["layer"].unique())
    trace = {
        "type": "heatmap",
        "x": table.columns.tolist(),
        "y": [_text(name) for name in table.index],
        "z": table.to_numpy().round(4).tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Viridis",
        "colorbar": {"tickformat": ".0%", "thickness": 12},
        "hovertemplate": "%{y}, generation %{x}: %{z:.1%}<extra></extra>",
    }
    layout = _layout(_axis("generation"), _axis("") | {"autorange": "reversed", "type": "category"})
    caption = "The share of each layer's weights, averaged over the front up to that generation."
    height = _tall(len(table), 24)
    return Picture(
        "kept", "Share of each layer that the front keeps", caption, {"data": [trace], "layout": layout}, height
    )


def _kept_bars(key: str, layers: pd.DataFrame) -> Picture:
    traces = []
    for what, label, colour, shape in (
        ("maps", "maps", BLUE, ""),
        ("kernels", "kernels", ORANGE, "/"),
        ("taps", "weights", GREEN, "."),
    ):
        bar = _bars(label, layers, layers[f"{what}_kept"] / layers[what], colour, shape)
        bar["customdata"] = layers[[f"{what}_kept", what]].to_numpy().tolist()
        bar["hovertemplate"] = "%{y}: %{customdata[0]:,} of %{customdata[1]:,} " + label + " (%{x:.1%})<extra></extra>"
        traces.append(bar)
    layout = _layout(_percent("kept") | {"range": [0, 1.01]}, _axis("") | {"autorange": "reversed", "type": "category"})
    figure = {"data": traces, "layout": layout}
    return Picture(f"kept-{key}", "Share of each layer that stays", "", figure, _tall(len(layers), 44))


def _time_bars(key: str, layers: pd.DataFrame) -> Picture:
    traces = [
        _bars("unpruned network", layers, layers["baseline_latency_ms"], GREY, ""),
        _bars("survivor", layers, layers["latency_ms"], BLUE, "/"),
    ]
    for trace in traces:
        trace["hovertemplate"] = "%{y}: %{x:.3f} ms"
    layout = _layout(_axis("time of one image (ms)"), _axis("") | {"autorange": "reversed", "type": "category"})
    caption = "Each layer alone in plain PyTorch, one image, one thread; masked weights are zeros."
    figure = {"data": traces, "layout": layout}
    return Picture(f"times-{key}", "Time by layer", caption, figure, _tall(len(layers), 34))


def _bars(name: str, layers: pd.DataFrame, values: pd.Series, colour: str, shape: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": _numbers(values),
        "y": [_text(layer) for layer in layers["layer"]],
        "marker": {"color": colour, "pattern": {"shape": shape, "fillmode": "overlay", "fgcolor": "white", "size": 6}},
    }


def _scatter(
    name: str,
    x: Any,
    y: Any,
    colour: str,
    mode: str,
    symbol: str = "circle",
    size: int = 6,
    customdata: list[Any] | None = None,
    hovertemplate: str | None = None,
    shape: str = "linear",
) -> Trace:
    trace: Trace = {
        "type": "scatter",
        "name": _text(name),
        "mode": mode,
        "x": _numbers(x),
        "y": _numbers(y),
        "marker": {"symbol": symbol, "size": size},
        "line": {"shape": shape, "width": 2},
    }
    if colour == INK:
        trace["meta"] = INK
    else:
        trace["marker"]["color"] = trace["line"]["color"] = colour
    if customdata is not None:
        trace["customdata"] = customdata
    if hovertemplate is not None:
        trace["hovertemplate"] = hovertemplate + "<extra></extra>"
    return trace


def _layout(x: Mapping[str, Any], y: Mapping[str, Any]) -> dict[str, Any]:
    legend = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}
    return {"xaxis": dict(x), "yaxis": dict(y), "legend": legend, "margin": {"l": 60, "r": 10, "t": 10, "b": 50}}


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True}


def _percent(title: str) -> dict[str, Any]:
    return _axis(title) | {"tickformat": ".3~%"}


def _styled(frame: pd.DataFrame) -> list[tuple[tuple[Any, pd.DataFrame], tuple[str, str]]]:
    """The rows of each setting with a colour and a symbol; beyond seven settings, new pairs of them."""
    kinds = len(SETTING_COLOURS)
    groups = list(frame.groupby("setting", sort=False))
    styles = [(SETTING_COLOURS[i % kinds], SYMBOLS[(i + i // kinds) % kinds]) for i in range(len(groups))]
    return list(zip(groups, styles, strict=True))


def _numbers(values: Any) -> list[Any]:
    """Values for JSON, in which missing ones are null."""
    return [None if pd.isna(value) else value for value in pd.Series(values).tolist()]


def _text(value: object) -> str:
    return html.escape(str(value), quote=False)


def _tall(rows: int, pixels_a_row: int) -> int:
    return min(120 + rows * pixels_a_row, 3000)
