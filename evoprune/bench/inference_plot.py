"""MACs against time: the share of the theoretical saving that is measured."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.record.files import write_bytes

MARKERS = "osD^vP*X"


def draw_speedups(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws a PNG: a panel for each runtime, batch and number of threads, a point for each survivor.

    A point has the MACs ratio and the time ratio; on the diagonal, time falls as MACs do.

    Args:
        rows: of `inference.SpeedRow`, whose numbers may be text.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    conditions = list(dict.fromkeys((row["runtime"], int(row["batch"]), int(row["threads"])) for row in rows))
    conditions.sort(key=lambda condition: (condition[0] != "torch", condition))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    columns = min(4, max(1, len(conditions)))
    lines = max(1, -(-len(conditions) // columns))
    figure = Figure(figsize=(3.2 * columns, 3.3 * lines + 0.6), layout="constrained")
    ratios = [float(row["survivor_ms"]) / float(row["baseline_ms"]) for row in rows]
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).reshape(-1)
    for panel, condition in zip(panels, conditions, strict=False):
        runtime, batch, threads = condition
        panel.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=1)
        for number, run in enumerate(runs):
            points = [
                (float(row["macs_ratio"]), float(row["survivor_ms"]) / float(row["baseline_ms"]))
                for row in rows
                if row["run"] == run and (row["runtime"], int(row["batch"]), int(row["threads"])) == condition
            ]
            if points:
                panel.scatter(*zip(*points, strict=True), s=30, marker=MARKERS[number % len(MARKERS)], label=run)
        panel.set_title(f"{runtime}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}", fontsize=9)
        panel.set_xlim(0, 1.02)
        panel.set_ylim(0, 1.05 * max([1.0, *ratios]))
        panel.grid(alpha=0.25)
    for panel in panels[len(conditions) :]:
        panel.set_axis_off()
    figure.supxlabel("MACs, survivor / baseline", fontsize=9)
    figure.supylabel("time, survivor / baseline", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, min(4, len(labels))), fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_bytes(path, buffer.getvalue())
