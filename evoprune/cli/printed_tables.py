"""Tables for people: survivors against the baseline, and a search space layer by layer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_SURVIVOR_HEADS = (
    "network",
    "MCR search",
    "MCR retrained",
    "MCR test",
    "MACs",
    "MACs ratio",
    "params",
    "params ratio",
    "latency ms",
)
_KEY_HEADS = ("key", "type", "default", "unit", "meaning")
_SWEEP_HEADS = {
    "survivors": "survivors",
    "mcr_retrained": "MCR retrained",
    "mcr_test": "MCR test",
    "baseline_mcr_test": "baseline MCR test",
    "macs_ratio": "MACs ratio",
    "params_ratio": "params ratio",
}
_FITNESS_HEADS = (
    "method",
    "workers",
    "candidates a second",
    "ours over this",
    "agrees",
    "images seen",
    "feasible",
    "share of peak",
)
_REASON_HEADS = ("reason to stay whole", "layers", "MACs", "share of MACs")
_LAYER_HEADS = ("layer", "kind", "maps", "genes", "MACs", "params")


class _LayerRow(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def maps(self) -> int: ...
    @property
    def genes(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def params(self) -> int: ...


class _KeyRow(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def default(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def meaning(self) -> str: ...


class _FitnessRow(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def candidates_per_second(self) -> float: ...
    @property
    def ours_over_this(self) -> float: ...
    @property
    def agrees(self) -> bool: ...
    @property
    def images_seen(self) -> float: ...
    @property
    def feasible(self) -> int: ...
    @property
    def peak_share(self) -> float: ...


class _ReasonRow(Protocol):
    @property
    def reason(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def share(self) -> float: ...


class _FrozenPart(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...


def survivor_rows(survivors: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The survivors' records as text, the baseline before them."""
    if not survivors:
        return []
    return [_baseline_row(survivors[0]), *(_survivor_row(record) for record in survivors)]


def survivors_table(
    console: Console, survivors: Sequence[Mapping[str, Any]], other_cost: tuple[str, float] | None = None
) -> RenderableType:
    """Survivors against the baseline.

    Args:
        console: prints the table.
        survivors: one mapping of the survivors frame's columns each.
        other_cost: the column of the cost that the search minimised, and its value for the unpruned network, if it is
            none of those that every table has.
    """
    heads: tuple[str, ...] = _SURVIVOR_HEADS
    rows = survivor_rows(survivors)
    if other_cost is not None:
        column, whole = other_cost
        costs = [whole, *(record.get(column) for record in survivors)]
        heads = (*heads, column.replace("_", " "))
        rows = [(*row, "-" if _missing(cost) else f"{cost:.4g}") for row, cost in zip(rows, costs, strict=True)]
    return table(console, heads, rows)


def layers_table(console: Console, layers: Iterable[_LayerRow], genes: int, macs: int, params: int) -> RenderableType:
    """The layers of a search space, with the totals last."""
    rows = [
        (row.name, row.kind, f"{row.maps:,}", f"{row.genes:,}", count(row.macs), count(row.params)) for row in layers
    ]
    total = ("total", "", "", f"{genes:,}", count(macs), count(params))
    return table(console, _LAYER_HEADS, [*rows, total])


def reasons_table(console: Console, reasons: Iterable[_ReasonRow]) -> RenderableType:
    """The share of a network's MACs that each reason keeps whole."""
    rows = [(row.reason, str(row.layers), count(row.macs), share(row.share)) for row in reasons]
    return table(console, _REASON_HEADS, rows)


def keys_table(console: Console, keys: Iterable[_KeyRow]) -> RenderableType:
    """A config's keys, one below the other."""
    rows = [(row.key, row.kind, row.default, row.unit, row.meaning) for row in keys]
    return table(console, _KEY_HEADS, rows, words=True)


def sweep_table(console: Console, rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line a run of a sweep: the values that vary, and its cheapest survivor."""
    hidden = ("run", "key", "error", "latency_ms")
    varied = [key for key in rows[0] if key not in hidden and key not in _SWEEP_HEADS]
    lines = []
    for row in rows:
        measured = [_measured(name, row[name]) for name in _SWEEP_HEADS]
        lines.append([*(str(row[key]) for key in varied), *(["failed", *measured[1:]] if row["error"] else measured)])
    return table(console, [*varied, *_SWEEP_HEADS.values()], lines)


def _measured(name: str, value: Any) -> str:
    return "-" if value is None else str(value) if name == "survivors" else f"{value:.2%}"


def fitness_table(console: Console, rows: Iterable[_FitnessRow]) -> RenderableType:
    """Ways to score, as `evoprune bench fitness` timed them."""
    cells = [
        (
            row.method,
            str(row.workers),
            f"{row.candidates_per_second:.2f}",
            f"{row.ours_over_this:.2f}",
            "yes" if row.agrees else "NO",
            f"{row.images_seen:.0f}",
            str(row.feasible),
            f"{row.peak_share:.0%}",
        )
        for row in rows
    ]
    return table(console, _FITNESS_HEADS, cells)


def frozen_lines(frozen: Iterable[_FrozenPart]) -> list[str]:
    """One line for every part that stays whole, with the reason."""
    return [f"{part.name} stays whole: {part.reason}" for part in frozen]


def table(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> RenderableType:
    """A table, set closer where the console needs it; one paragraph a row where it is too narrow for that.

    words: its cells are words, which stand left, not numbers.
    """
    endless = console.options.update(width=10_000)
    for gap in (1, 0):
        grid = _grid(heads, rows, gap, "left" if words else "right")
        if Measurement.get(console, endless, grid).maximum <= console.width:
            return grid
    return Text("\n\n".join(_paragraph(heads, row) for row in rows))


def count(number: float) -> str:
    """950; 12.3 k; 4.56 M; 1.20 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 10 else 1}f} {unit}"
    return f"{number:.0f}"


def share(value: float | None) -> str:
    """0.0685 -> 6.85%; - where there is none."""
    return "-" if _missing(value) else f"{value:.2%}"


def _baseline_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "baseline",
        share(record.get("baseline_mcr_validation")),
        "-",
        share(record["baseline_mcr_test"]),
        count(record["macs"] / record["macs_ratio"]),
        share(1.0),
        count(record["params"] / record["params_ratio"]),
        share(1.0),
        _milliseconds(record["baseline_latency_ms"]),
    )


def _survivor_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        record["key"],
        share(record["mcr_search"]),
        share(record["mcr_retrained"]),
        share(record["mcr_test"]),
        count(record["macs"]),
        share(record["macs_ratio"]),
        count(record["params"]),
        share(record["params_ratio"]),
        _milliseconds(record["latency_ms"]),
    )


def _milliseconds(value: float | None) -> str:
    return "-" if _missing(value) else f"{value:.2f}"


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]], gap: int, justify: Literal["left", "right"]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for index, head in enumerate(heads):
        # Heads break at their last space, so that columns are as narrow as their numbers.
        grid.add_column("\n".join(head.rsplit(" ", 1)), justify=justify if index else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _paragraph(heads: Sequence[str], row: Sequence[str]) -> str:
    width = max(len(head) for head in heads[1:])
    title, *cells = row
    lines = [f"  {head:<{width}}  {cell}" for head, cell in zip(heads[1:], cells, strict=True) if cell]
    return "\n".join([title, *lines])
