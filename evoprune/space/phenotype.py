"""Phenotypes: the tensor positions and weights that a genome keeps, after all consequences.

A feature map is removed, too, if all kernels that make it or all kernels that read it are removed, and so on until
nothing changes. Genes without effect are then set to 0, so that equal networks have equal genomes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evoprune.space.masks import DENSE, FeatureMapMask, KernelMask, LayerStrides
from evoprune.space.plan import Genome, Layer, Plan


@dataclass(frozen=True, eq=False)
class Phenotype:
    """The network that a genome leaves.

    Attributes:
        genome: The canonical genome: genes without effect are 0.
        kept: (tensor, dimension) -> positions that stay, int64, for each dimension that loses some.
        kernels: Weight -> weights that stay, bool (outputs, inputs, taps) in the sizes of the unpruned weight, for each
            layer that loses kernels or taps besides whole maps; False for removed maps.
    """

    genome: Genome
    kept: Mapping[tuple[str, int], np.ndarray]
    kernels: Mapping[str, np.ndarray]

    @property
    def key(self) -> str:
        """A stable name of the network that is left: 16 hexadecimal digits."""
        return hashlib.sha256(self.genome.tobytes()).hexdigest()[:16]


def phenotype_of(space: Plan, genome: Genome) -> Phenotype:
    """The phenotype of a genome, uint8 (genes,). Groups may have lost all maps: see `SearchSpace.check`."""
    genome = genome.copy()
    bits = {genes.weight: genome[genes.genes][genes.of_kernel] != 0 for genes in space.kernels}
    while bits:
        made, read = _made_and_read(space, genome, bits)
        alive = genome[: space.maps] & made & read
        if np.array_equal(alive, genome[: space.maps]):
            break
        genome[: space.maps] = alive
    kernels = _settle_kernel_genes(space, genome, bits)
    kept: dict[tuple[str, int], np.ndarray] = {}
    for axes in space.axes_with_equal_genes:
        index = axes[0].kept(genome)
        if len(index) < len(axes[0].gene):
            kept.update(((axis.tensor, axis.dim), index) for axis in axes)
    return Phenotype(genome, kept, kernels)


def _made_and_read(space: Plan, genome: Genome, bits: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Maps that at least one kernel makes, and maps that at least one kernel reads. Returns bool (maps,) each.

    A grouped convolution whose groups are genes passes maps on; it neither makes nor reads them. Maps that no layer
    makes (or reads) count as made (or read).
    """
    results = []
    for output in (True, False):
        applicable, found = np.zeros(space.maps, dtype=bool), np.zeros(space.maps, dtype=bool)
        for layer in space.layers:
            gene = space.genes_along(layer.weight, layer.out_dim if output else layer.in_dim)
            if gene is None or layer.channels_per_group:
                continue
            has = np.ones(len(gene), dtype=bool)
            if layer.weight in bits:
                has = (bits[layer.weight] & _alive(space, layer, genome)).any(axis=1 if output else 0)
            applicable[gene[gene >= 0]] = True
            found[gene[(gene >= 0) & has]] = True
        results.append(found | ~applicable)
    return results[0], results[1]


def _alive(space: Plan, layer: Layer, genome: Genome) -> np.ndarray:
    """Kernels of which both the output map and the input map stay. Returns bool (outputs, inputs)."""
    sides = []
    for dim in (layer.out_dim, layer.in_dim):
        gene = space.genes_along(layer.weight, dim)
        size = layer.shape[dim]
        sides.append(np.ones(size, dtype=bool) if gene is None else (gene < 0) | (genome[gene] != 0))
    return sides[0][:, None] & sides[1]


def _settle_kernel_genes(space: Plan, genome: Genome, bits: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sets kernel and stride genes without effect to 0, in place; bits: kernel genes per kernel.

    Returns `Phenotype.kernels`.
    """
    alive = {genes.weight: _alive(space, space.layer(genes.weight), genome) for genes in space.inside_layers}
    present = {weight: kernels & bits.get(weight, True) for weight, kernels in alive.items()}
    for genes in space.kernels:
        counts = np.bincount(genes.of_kernel[alive[genes.weight]], minlength=genes.size)
        genome[genes.genes][counts == 0] = 0
    masks = {weight: kernels[:, :, None] for weight, kernels in present.items()}
    for strides in space.strides:
        counts = np.bincount(strides.of_kernel[present[strides.weight]], minlength=strides.size)
        genome[strides.genes][counts == 0] = 0
        taps = strides.tap_table[genome[strides.genes][strides.of_kernel]]  # (outputs, inputs, taps)
        masks[strides.weight] = masks[strides.weight] & taps
    return {
        weight: np.repeat(mask, space.layer(weight).taps // mask.shape[2], axis=2)
        for weight, mask in masks.items()
        if not mask[alive[weight]].all()
    }


def masks_of(space: Plan, phenotype: Phenotype) -> tuple[FeatureMapMask | KernelMask | LayerStrides, ...]:
    """A phenotype as masks, layer by layer; only for layers that lose something."""
    masks: list[FeatureMapMask | KernelMask | LayerStrides] = []
    kernels = {genes.weight: genes for genes in space.kernels}
    strides = {genes.weight: genes for genes in space.strides}
    for layer in space.layers:
        rows = phenotype.kept.get((layer.weight, layer.out_dim))
        if rows is not None:
            masks.append(FeatureMapMask(layer.name, layer.shape[layer.out_dim], tuple(rows.tolist())))
        if layer.weight in kernels and layer.weight in phenotype.kernels:
            outputs, inputs = np.nonzero(phenotype.kernels[layer.weight].any(axis=2))
            kept = tuple(zip(outputs.tolist(), inputs.tolist(), strict=True))
            if len(kept) < _alive(space, layer, phenotype.genome).sum():
                masks.append(KernelMask(layer.name, layer.shape[layer.out_dim], layer.shape[layer.in_dim], kept))
        if layer.weight in strides:
            genes = strides[layer.weight]
            chosen = tuple(genes.table[value] for value in phenotype.genome[genes.genes])
            if any(mask != DENSE for mask in chosen):
                masks.append(LayerStrides(layer.name, genes.sharing, chosen))
    return tuple(masks)
