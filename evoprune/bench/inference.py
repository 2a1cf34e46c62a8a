"""Speedups of survivors over the baseline: of whole networks, in PyTorch and onnxruntime, and layer by layer.

Both networks are brought into their fastest form first, for the machine, batch and threads of the measurement: batch
norms folded, the faster memory layout, sums and ReLUs in place. Pruning adds fewer maps, and lowered masks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.bench.inference_plot import draw_speedups
from evoprune.bench.layer_speeds import LayerSpeed, layer_speeds
from evoprune.bench.timing import Timing, cores, timings
from evoprune.errors import RunFolderError
from evoprune.record.csv_tables import read_csv, write_csv
from evoprune.record.environment import environment
from evoprune.record.lock import locked_table
from evoprune.record.runs import Run, load_run
from evoprune.surgery.export_formats import INPUT, needed, onnx_model, onnx_session
from evoprune.surgery.lowering.lower import Lowered, lower_compacted
from evoprune.training.threads import torch_threads

BATCHES = (1, 32)
EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class Contestant:
    """A network of a run.

    Attributes:
        key: a survivor's key, or baseline.
        model: the network.
        masks: bool tensors of the weights that stay, by name.
    """

    key: str
    model: nn.Module
    masks: dict[str, Tensor]


@dataclass(frozen=True)
class TimingConditions:
    """The images of a measurement, and its number of threads."""

    batch: int
    threads: int
    images: Tensor


@dataclass(frozen=True)
class SpeedRow:
    """The speed of one survivor under one condition.

    Every `ratio` is the survivor's value over the baseline's, every `speedup` the baseline's time over the survivor's,
    every `_ms` the time of a forward pass of the whole batch.

    Attributes:
        layer_speedup: of all layers in their fastest forms, times added up (PyTorch alone).
        paper_layer_speedup: of the im2col products of all convolutions, times added up (PyTorch alone).
    """

    run: str
    network: str
    survivor: str
    runtime: str
    batch: int
    threads: int
    mcr_test: float
    baseline_mcr_test: float
    macs_ratio: float
    params_ratio: float
    speedup: float
    baseline_ms: float
    baseline_iqr_ms: float
    survivor_ms: float
    survivor_iqr_ms: float
    layer_speedup: float | None
    paper_layer_speedup: float | None
    forms: str
    cpu: str
    torch: str


def bench_inference(
    folders: Sequence[str | Path],
    out: Path,
    seconds: float,
    report: Callable[[str], None],
    threads: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Times every survivor of some runs, and writes two tables and a picture.

    Args:
        folders: run folders.
        out: the CSV of networks; its rows of other runs stay. `_layers.csv` and `.png` of the same name are beside it.
        seconds: duration of each network's timing in each of several rounds.
        report: receives a line for each measurement.
        threads: numbers of threads to compute with; None: one, and the number of cores.

    Returns:
        The rows of `out`.

    Raises:
        RunFolderError: a run has no survivors, or another process works on the table.
        ConfigError: a table is another one, or is damaged.
        ExportError: onnxruntime is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    runs = [load_run(folder) for folder in folders]
    for run in runs:
        if run.survivors.empty:
            raise RunFolderError(f"{run.root} has no survivors to time; finish the run, or raise search.tolerance")
    layers_out = out.with_name(f"{out.stem}_layers.csv")
    names = {run.config.name for run in runs}
    with locked_table(out):
        rows: list[Any] = [row for row in read_csv(out, ["run"]) if row["run"] not in names]
        layers: list[Any] = [row for row in read_csv(layers_out, ["run"]) if row["run"] not in names]
        for run in runs:
            for row, speeds in _run_rows(run, seconds, threads or sorted({1, cores()})):
                rows.append(asdict(row))
                report(_line(row))
                place = {name: rows[-1][name] for name in ("run", "network", "survivor", "batch", "threads")}
                layers += [place | asdict(speed) for speed in speeds]
                write_csv(out, rows)
                write_csv(layers_out, layers)
        draw_speedups(rows, out.with_suffix(".png"))
    return rows


def _run_rows(run: Run, seconds: float, threads: Sequence[int]) -> Iterator[tuple[SpeedRow, Sequence[LayerSpeed]]]:
    """The rows of every survivor under every condition, those of PyTorch with the speeds of the layers."""
    baseline = Contestant("baseline", run.load_baseline(), {})
    survivors = [Contestant(key, run.load_survivor(key), run.survivor_masks(key)) for key in run.survivors["key"]]
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        images = torch.randn(batch, *run.image_shape, generator=generator)
        for count in threads:
            conditions = TimingConditions(batch, count, images)
            with torch_threads(count):
                lowered = [_lowered(each, conditions) for each in (baseline, *survivors)]
                by_torch = _torch_timings(lowered, conditions, seconds)
                by_onnx = _onnx_timings((baseline, *survivors), lowered, conditions, seconds)
                for survivor, form, in_torch, in_onnx in zip(
                    survivors, lowered[1:], by_torch[1:], by_onnx[1:], strict=True
                ):
                    speeds = layer_speeds(baseline.model, survivor.model, survivor.masks, images, count, seconds / 10)
                    make = partial(_row, run, survivor.key, conditions)
                    yield make("torch", by_torch[0], in_torch, form.forms, speeds), speeds
                    yield make("onnxruntime", by_onnx[0], in_onnx, form.forms, ()), ()


def _lowered(contestant: Contestant, conditions: TimingConditions) -> Lowered:
    """A network in its fastest form under these conditions."""
    return lower_compacted(contestant.model, conditions.images, contestant.masks)


def _torch_timings(lowered: Sequence[Lowered], conditions: TimingConditions, seconds: float) -> list[Timing]:
    calls = {str(number): partial(each.network, conditions.images) for number, each in enumerate(lowered)}
    return list(timings(calls, conditions.threads, seconds).values())


def _onnx_timings(
    contestants: Sequence[Contestant], lowered: Sequence[Lowered], conditions: TimingConditions, seconds: float
) -> list[Timing]:
    """Timings in onnxruntime of each network, lowered or with its zeros, whichever is faster."""
    feed = {INPUT: conditions.images.numpy()}
    calls = {}
    for number, (contestant, form) in enumerate(zip(contestants, lowered, strict=True)):
        networks = [form.network]
        if form.forms:
            networks.append(lower_compacted(contestant.model, conditions.images, keep_plain=True).network)
        for variant, network in enumerate(networks):
            session = onnx_session(_onnx_of(network, conditions.images.shape[1:]), conditions.threads)
            calls[f"{number} {variant}"] = partial(session.run, None, feed)
    found = timings(calls, conditions.threads, seconds)
    return [
        min((timing for name, timing in found.items() if name.split()[0] == str(number)),
            key=lambda timing: timing.median_ms)
        for number in range(len(contestants))
    ]  # fmt: skip


def _onnx_of(network: nn.Module, image_shape: Sequence[int]) -> bytes:
    return onnx_model(network, torch.zeros(EXAMPLE_BATCH, *image_shape))


def _row(
    run: Run, key: str, conditions: TimingConditions, runtime: str, before: Timing, after: Timing, forms: str,
    layers: Sequence[LayerSpeed],
) -> SpeedRow:  # fmt: skip
    measured: Any = run.survivors.set_index("key").loc[key]
    machine = _environment()
    return SpeedRow(
        run=run.config.name,
        network=run.config.model.network,
        survivor=key,
        runtime=runtime,
        batch=conditions.batch,
        threads=conditions.threads,
        mcr_test=float(measured["mcr_test"]),
        baseline_mcr_test=float(measured["baseline_mcr_test"]),
        macs_ratio=_rounded(measured["macs_ratio"]),
        params_ratio=_rounded(measured["params_ratio"]),
        speedup=_rounded(before.median_ms / after.median_ms),
        baseline_ms=_rounded(before.median_ms),
        baseline_iqr_ms=_rounded(before.iqr_ms),
        survivor_ms=_rounded(after.median_ms),
        survivor_iqr_ms=_rounded(after.iqr_ms),
        layer_speedup=_total(layers, "baseline_ms", "survivor_ms"),
        paper_layer_speedup=_total(layers, "paper_full_ms", "paper_reduced_ms"),
        forms=forms,
        cpu=str(machine["cpu"]),
        torch=str(machine["torch"]),
    )


@cache
def _environment() -> dict[str, Any]:
    return dict(environment())


def _total(layers: Sequence[LayerSpeed], before: str, after: str) -> float | None:
    pairs = [(getattr(layer, before), getattr(layer, after)) for layer in layers]
    pairs = [(full, reduced) for full, reduced in pairs if full is not None]
    return _rounded(sum(full for full, _ in pairs) / sum(reduced for _, reduced in pairs)) if pairs else None


def _rounded(value: float) -> float:
    return float(f"{float(value):.4g}")


def _line(row: SpeedRow) -> str:
    return (
        f"{row.run}  {row.survivor}  {row.runtime:<11}  batch {row.batch:>2}, {row.threads} thread"
        f"{'s' if row.threads > 1 else ' '}  MACs {row.macs_ratio:.1%}  "
        f"{row.baseline_ms:.3f} ms -> {row.survivor_ms:.3f} ms  {row.speedup:.2f} times"
    )
