"""Tables by layer: what survivors keep, what the front keeps in each generation, and which stride masks are used."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evoprune.record import files
from evoprune.record.columns import checked, typed
from evoprune.record.folder import RunFolder
from evoprune.record.fronts import front
from evoprune.space.cost import cut_elements

if TYPE_CHECKING:
    from evoprune.space.phenotype import Phenotype
    from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace

MOST_LAYER_ROWS = 2**20
"""Rows of the table of layers: one for each survivor and layer."""

LAYER_DTYPES: Mapping[str, Any] = {
    "key": "str",
    "layer": "str",
    "kind": "str",
    "maps": "int64",
    "maps_kept": "int64",
    "kernels": "int64",
    "kernels_kept": "int64",
    "taps": "int64",
    "taps_kept": "int64",
    "macs": "int64",
    "baseline_macs": "int64",
    "latency_ms": "Float64",  # missing where it was not measured
    "baseline_latency_ms": "Float64",
}
KEPT_DTYPES: Mapping[str, Any] = {"generation": "int64", "layer": "str", "kept_fraction": "float64"}
STRIDE_DTYPES: Mapping[str, Any] = {
    "key": "str",
    "layer": "str",
    "start": "int64",
    "stride": "int64",
    "kernel_height": "int64",
    "kernel_width": "int64",
    "masks": "int64",
}

LayerTimes = Mapping[str, float]
"""Milliseconds of each layer, by its name."""


@dataclass(frozen=True)
class _Kept:
    """Numbers of maps, kernels, taps and MACs that a phenotype keeps of a layer."""

    maps: int
    kernels: int
    taps: int
    macs: int


def layers_frame(
    reference: "SearchSpace",
    space: "SearchSpace",
    genomes: Mapping[str, np.ndarray],
    times_ms: Mapping[str, LayerTimes],
    baseline_times_ms: LayerTimes,
) -> pd.DataFrame:
    """The layers of survivors.

    Args:
        reference: the search space of the unpruned network.
        space: the search space of the genomes; the same one if there was one round.
        genomes: the genome of each survivor, by key.
        times_ms: milliseconds of each layer, by the key of the survivor; may lack some.
        baseline_times_ms: milliseconds of each layer of the unpruned network.

    Returns:
        One row for each survivor and layer, in the order of the forward pass; the columns of LAYER_DTYPES.
    """
    whole = _counts(reference, reference.phenotype(reference.full()))
    before = {layer.name: kept for layer, kept in zip(reference.layers, whole, strict=True)}
    rows = []
    for key, genome in genomes.items():
        for layer, left in zip(space.layers, _counts(space, space.check(genome)), strict=True):
            there = before[layer.name]
            latency = times_ms.get(key, {}).get(layer.name)
            counts = (
                *(there.maps, left.maps, there.kernels, left.kernels),
                *(there.taps, left.taps, left.macs, there.macs),
            )
            rows.append((key, layer.name, layer.kind, *counts, latency, baseline_times_ms.get(layer.name)))
    return _frame(rows, LAYER_DTYPES)


def write_layers(folder: RunFolder, frame: pd.DataFrame) -> None:
    """Stores the frame of `layers_frame`. Raises RunFolderError as `files.write_bytes`."""
    files.write_parquet(folder.layers_table, frame)


def read_layers(folder: RunFolder) -> pd.DataFrame | None:
    """The frame that `write_layers` stored; None if there is none. Raises RunFolderError, DamagedFileError."""
    path = folder.layers_table
    if not path.is_file():
        return None
    return checked(files.read_parquet([path], most_rows=MOST_LAYER_ROWS), LAYER_DTYPES, path)


def kept_by_generation(space: "SearchSpace", candidates: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The share of each layer's weights that the front keeps, generation by generation.

    Args:
        space: the search space.
        candidates: the frame of candidates, genomes included.
        cost: the column of the cost that the front is of.

    Returns:
        One row for each generation and layer, with the mean over the front of all candidates so far; the unpruned
        network counts only if the front has no other one. The columns of KEPT_DTYPES.
    """
    whole = _taps_kept(space, space.phenotype(space.full()))
    whole_key = space.key(space.full())
    known: dict[str, np.ndarray] = {}
    rows = []
    found = candidates[:0]
    for generation, fresh in candidates.groupby("generation"):
        found = front(pd.concat([found, fresh]), cost)
        pruned = found[(found["key"] != whole_key).to_numpy(dtype=bool)]
        for key, genome in zip(pruned["key"], pruned["genome"], strict=True):
            if key not in known:
                known[key] = _taps_kept(space, space.phenotype(np.frombuffer(genome, np.uint8))) / whole
        shares = np.mean([known[key] for key in pruned["key"]], axis=0) if len(pruned) else np.ones(len(whole))
        rows += [(generation, layer.name, share) for layer, share in zip(space.layers, shares, strict=True)]
    return _frame(rows, KEPT_DTYPES)


def stride_masks_frame(space: "SearchSpace", genomes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The stride masks of survivors.

    Args:
        space: the search space.
        genomes: the genome of each survivor, by key.

    Returns:
        One row for each survivor, layer and mask in use, with the number of its uses; masks without a kernel left are
        not counted. The columns of STRIDE_DTYPES.
    """
    rows: list[tuple[Any, ...]] = []
    for key, genome in genomes.items():
        phenotype = space.check(genome)
        for strides in space.strides:
            layer = space.layer(strides.weight)
            alive = _present(layer, phenotype)
            values = phenotype.genome[strides.genes][np.unique(strides.of_kernel[alive])]
            height, width = strides.kernel_size if len(strides.kernel_size) == 2 else (1, layer.taps)
            for value, uses in zip(*np.unique(values, return_counts=True), strict=True):
                mask = strides.table[value]
                rows.append((key, layer.name, mask.start, mask.stride, height, width, uses))
    return _frame(rows, STRIDE_DTYPES)


def _counts(space: "SearchSpace", phenotype: "Phenotype") -> list[_Kept]:
    """The numbers that stay of every layer, in the order of the layers."""
    cut = cut_elements(space, phenotype)
    counts = []
    for layer in space.layers:
        kept = phenotype.kept.get((layer.weight, layer.out_dim))
        maps = layer.shape[layer.out_dim] if kept is None else len(kept)
        in_groups = layer.groups if layer.out_dim == 1 and "transposed" in layer.kind else 1
        masked = phenotype.kernels.get(layer.weight)
        taps = cut[layer.weight] if masked is None else int(np.count_nonzero(masked))
        kernels = taps // layer.taps if masked is None else int(np.count_nonzero(masked.any(axis=2)))
        counts.append(_Kept(maps * in_groups, kernels, taps, taps * layer.positions))
    return counts


def _present(layer: "Layer", phenotype: "Phenotype") -> np.ndarray:
    """The kernels that stay: bool (outputs, inputs)."""
    if (masked := phenotype.kernels.get(layer.weight)) is not None:
        return np.any(masked, axis=2)
    sides = []
    for dim in (layer.out_dim, layer.in_dim):
        stays = np.zeros(layer.shape[dim], dtype=bool)
        stays[phenotype.kept.get((layer.weight, dim), slice(None))] = True
        sides.append(stays)
    return np.logical_and.outer(*sides)


def _taps_kept(space: "SearchSpace", phenotype: "Phenotype") -> np.ndarray:
    """Weights of each layer that stay. Returns float (layers,)."""
    return np.array([kept.taps for kept in _counts(space, phenotype)], dtype=float)


def _frame(rows: Iterable[Sequence[Any]], dtypes: Mapping[str, Any]) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * len(dtypes)
    return typed(dict(zip(dtypes, columns, strict=True)), dtypes)
