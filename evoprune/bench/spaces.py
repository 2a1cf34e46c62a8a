"""A table of the search spaces of all of torchvision's classification networks."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torchvision import models

from evoprune.config.schema import SpaceConfig
from evoprune.discovery.discover import explore
from evoprune.errors import SearchSpaceError
from evoprune.networks.seeding import global_seed
from evoprune.networks.zoo import check_torchvision_name
from evoprune.record.csv_tables import read_csv, write_csv
from evoprune.record.lock import locked_table
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace

USUAL_SIZE = 224
"""Height and width of the example if torchvision names none for a network's weights."""


@dataclass(frozen=True)
class SpaceRow:
    """The search space of one network.

    Attributes:
        name: torchvision's name of the network.
        groups: number of feature-map groups.
        genes: number of genes.
        prunable_macs_share: share (0..1) of the network's MACs in layers that read or write prunable maps.
        proved: whether there are prunable maps, and masked and compacted outputs agree.
        seconds: duration of the discovery.
        max_difference: largest difference of those outputs in the proof, relative to their scale.
        stays_whole: layers, besides the outputs, that are not prunable, and why.
    """

    name: str
    groups: int
    genes: int
    prunable_macs_share: float
    proved: bool
    seconds: float
    max_difference: float
    stays_whole: str


def torchvision_spaces(out: Path, names: Sequence[str] | None, report: Callable[[str], None]) -> None:
    """Writes a CSV row for each of torchvision's classification networks, as soon as it is known.

    Args:
        out: file of the table; networks that it has are skipped.
        names: the networks; None: all.
        report: receives a line for each network.

    Raises:
        NetworkError: torchvision has no network of a name.
        RunFolderError: another process works on the table.
        ConfigError: the file is another table, or is damaged.
    """
    networks = names or models.list_models(module=models)
    for name in networks:
        check_torchvision_name(name)
    with locked_table(out):
        rows: list[Mapping[str, Any]] = [*read_csv(out, [field.name for field in fields(SpaceRow)])]
        for name in networks:
            if any(row["name"] == name for row in rows):
                continue
            row = space_row(name)
            rows.append(asdict(row))
            write_csv(out, rows)
            report(f"{name}: {row.groups} groups, {row.genes} genes, proved {row.proved}, {row.seconds} s")


def space_row(name: str, seed: int = 0) -> SpaceRow:
    """The row of one of torchvision's networks, built with random weights, at its usual input size."""
    size = _input_size(name)
    with global_seed(seed):
        network = models.get_model(name, weights=None).eval()
        example = torch.randn(1, 3, size, size)
    started = time.perf_counter()
    try:
        proof = explore(network, example, SpaceConfig())
    except SearchSpaceError as error:
        return SpaceRow(name, 0, 0, 0.0, False, _seconds_since(started), 0.0, str(error))
    space = proof.space
    return SpaceRow(
        name=name,
        groups=len(space.groups),
        genes=space.genes,
        prunable_macs_share=round(prunable_macs_share(space), 4),
        proved=bool(space.groups),
        seconds=_seconds_since(started),
        max_difference=float(f"{proof.max_difference:.2g}"),
        stays_whole=_stays_whole(space),
    )


def prunable_macs_share(space: SearchSpace) -> float:
    """Share (0..1) of a network's MACs in layers that read or write prunable maps."""
    prunable = {axis.tensor for axis in space.axes}
    macs = {layer.weight: layer.positions * torch.Size(layer.shape).numel() for layer in space.layers}
    total = cost(space, space.full()).macs
    return sum(count for weight, count in macs.items() if weight in prunable) / total if total else 0.0


def _stays_whole(space: SearchSpace) -> str:
    """Every reason but that of the outputs, with the number of layers and the first one."""
    layers: dict[str, list[str]] = {}
    for part in space.frozen:
        if not part.reason.startswith("it is an output"):
            layers.setdefault(part.reason.partition(" (in ")[0], []).append(part.name)
    return "; ".join(
        f"{len(parts)} ({parts[0]}{' ...' if len(parts) > 1 else ''}): {reason}" for reason, parts in layers.items()
    )


def _input_size(name: str) -> int:
    """The smallest input size of torchvision's weights for this network."""
    sizes = [weights.transforms().crop_size[0] for weights in models.get_model_weights(name)]
    return min(sizes, default=USUAL_SIZE)


def _seconds_since(started: float) -> float:
    return round(time.perf_counter() - started, 1)
