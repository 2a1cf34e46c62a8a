"""The search spaces of all of torchvision's classification networks, in one table."""

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torchvision import models

from evoprune.config.schema import SpaceConfig
from evoprune.discovery.discover import explore
from evoprune.errors import SearchSpaceError
from evoprune.networks.seeding import global_seed
from evoprune.networks.zoo import check_torchvision_name
from evoprune.record.files import write_text
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace

USUAL_SIZE = 224
"""Height and width of the example, where torchvision does not name one for a network's weights."""


@dataclass(frozen=True)
class SpaceRow:
    """One network's search space.

    prunable_macs_share: share (0..1) of the network's MACs in layers that read or write maps that may go.
    proved: something may go, and with all of it masked and cut outputs agree. max_difference: largest difference
    of those outputs in the proof, relative to their scale. stays_whole: what does besides the outputs, and why.
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
    """Writes a CSV row for each of torchvision's classification networks (or `names`), as they are done.

    Networks that the file holds already are skipped. report: receives a line a network. Raises NetworkError.
    """
    rows = _read_rows(out)
    wanted = names or models.list_models(module=models)
    for name in wanted:
        check_torchvision_name(name)
    for name in wanted:
        if any(row["name"] == name for row in rows):
            continue
        row = space_row(name)
        rows.append({key: str(value) for key, value in asdict(row).items()})
        write_text(out, _as_csv(rows))
        report(f"{name}: {row.groups} groups, {row.genes} genes, proved {row.proved}, {row.seconds} s")


def space_row(name: str, seed: int = 0) -> SpaceRow:
    """Builds one of torchvision's networks with random weights, and explores it at its usual input size."""
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
    """Share (0..1) of a network's MACs in layers that read or write maps that may go."""
    prunable = {axis.tensor for axis in space.axes}
    macs = {layer.weight: layer.positions * torch.Size(layer.shape).numel() for layer in space.layers}
    total = cost(space, space.full()).macs
    return sum(count for weight, count in macs.items() if weight in prunable) / total if total else 0.0


def _stays_whole(space: SearchSpace) -> str:
    """Every reason but that of the outputs, with how many layers it holds for and the first of them."""
    layers: dict[str, list[str]] = {}
    for part in space.frozen:
        if not part.reason.startswith("it is an output"):
            layers.setdefault(part.reason.partition(" (in ")[0], []).append(part.name)
    return "; ".join(
        f"{len(parts)} ({parts[0]}{' ...' if len(parts) > 1 else ''}): {reason}" for reason, parts in layers.items()
    )


def _input_size(name: str) -> int:
    """The least size among those that torchvision's weights of this network are meant for."""
    sizes = [weights.transforms().crop_size[0] for weights in models.get_model_weights(name)]
    return min(sizes, default=USUAL_SIZE)


def _seconds_since(started: float) -> float:
    return round(time.perf_counter() - started, 1)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _as_csv(rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(SpaceRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
