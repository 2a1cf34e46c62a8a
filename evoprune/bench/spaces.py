"""A table of the search spaces of a library's networks: torchvision, timm, or segmentation_models_pytorch."""

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from evoprune.bench.space_libraries import LIBRARIES
from evoprune.config.schema import SpaceConfig
from evoprune.discovery.discover import explore
from evoprune.errors import SearchSpaceError
from evoprune.networks.seeding import global_seed
from evoprune.record.csv_tables import read_csv, write_csv
from evoprune.record.lock import locked_table
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from evoprune.space.summary import kind_of_reason


@dataclass(frozen=True)
class SpaceRow:
    """The search space of one network.

    Attributes:
        name: the library's name of the network.
        groups: number of feature-map groups.
        genes: number of genes.
        prunable_macs_share: share (0..1) of the network's MACs in layers that read or write prunable maps.
        proved: whether there are prunable maps, and masked and compacted outputs agree.
        seconds: duration of the discovery.
        peak_gib: largest memory of the network's process, all libraries included, in GiB.
        max_difference: largest difference of those outputs in the proof, relative to their scale.
        stays_whole: layers, besides the outputs, that are not prunable, and why.
    """

    name: str
    groups: int
    genes: int
    prunable_macs_share: float
    proved: bool
    seconds: float
    peak_gib: float
    max_difference: float
    stays_whole: str


def library_spaces(library: str, out: Path, names: Sequence[str] | None, report: Callable[[str], None]) -> None:
    """Writes a CSV row for each of a library's networks, as soon as it is known. Each network has a process of its own.

    Args:
        library: torchvision (classification networks), timm, or segmentation.
        out: file of the table; networks that it has are skipped.
        names: the networks; None: all of torchvision, and a choice of those of the other libraries.
        report: receives a line for each network.

    Raises:
        NetworkError: the library has no network of a name.
        RunFolderError: another process works on the table.
        ConfigError: the file is another table, or is damaged.
    """
    networks = names or LIBRARIES[library].names()
    for name in networks:
        LIBRARIES[library].check(name)
    with locked_table(out):
        rows: list[Mapping[str, Any]] = [*read_csv(out, [field.name for field in fields(SpaceRow)])]
        for name in networks:
            if any(row["name"] == name for row in rows):
                continue
            row = _row_of_own_process(library, name)
            rows.append(asdict(row))
            write_csv(out, rows)
            report(
                f"{name}: {row.groups} groups, {row.genes} genes, proved {row.proved}, "
                f"{row.seconds} s, {row.peak_gib} GiB"
            )


def _row_of_own_process(library: str, name: str) -> SpaceRow:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(space_row, library, name).result()
        except BrokenProcessPool:
            return _without_plan(name, 0.0, "its process was killed, perhaps for its memory")


def space_row(library: str, name: str, seed: int = 0) -> SpaceRow:
    """The row of one network, built with random weights. The peak memory is that of this process."""
    with global_seed(seed):
        network, example = LIBRARIES[library].build(name)
    started = time.perf_counter()
    try:
        proof = explore(network.eval(), example, SpaceConfig())
    except SearchSpaceError as error:
        return _without_plan(name, _seconds_since(started), str(error))
    space = proof.space
    return SpaceRow(
        name=name,
        groups=len(space.groups),
        genes=space.genes,
        prunable_macs_share=round(prunable_macs_share(space), 4),
        proved=bool(space.groups),
        seconds=_seconds_since(started),
        peak_gib=peak_gib(),
        max_difference=float(f"{proof.max_difference:.2g}"),
        stays_whole=_stays_whole(space),
    )


def _without_plan(name: str, seconds: float, reason: str) -> SpaceRow:
    return SpaceRow(name, 0, 0, 0.0, False, seconds, peak_gib(), 0.0, reason)


def prunable_macs_share(space: SearchSpace) -> float:
    """Share (0..1) of a network's MACs in layers that read or write prunable maps."""
    prunable = {axis.tensor for axis in space.axes}
    macs = {layer.weight: layer.positions * math.prod(layer.shape) for layer in space.layers}
    total = cost(space, space.full()).macs
    return sum(count for weight, count in macs.items() if weight in prunable) / total if total else 0.0


def _stays_whole(space: SearchSpace) -> str:
    """Every reason but that of the outputs, with the number of layers and the first one."""
    layers: dict[str, list[str]] = {}
    for part in space.frozen:
        if not part.reason.startswith("it is an output"):
            layers.setdefault(kind_of_reason(part.reason), []).append(part.name)
    return "; ".join(
        f"{len(parts)} ({parts[0]}{' ...' if len(parts) > 1 else ''}): {reason}" for reason, parts in layers.items()
    )


def peak_gib() -> float:
    """The largest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)


def _seconds_since(started: float) -> float:
    return round(time.perf_counter() - started, 1)
