"""The oracle: the change of the loss itself when a part is removed."""

import numpy as np

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues
from evoprune.plugins.kinds import criterion


@criterion("oracle")
class Oracle(Criterion):
    """|change of the loss| if a map (or a kernel) is removed and nothing else changes: one evaluation for each.

    Maps of groups that may lose none have 0.

    References:
        Molchanov et al. 2017, section 2.1.
    """

    needs_labels = True

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        space = context.space
        maps = [np.arange(group.start, group.start + group.size) for group in space.groups]
        prunable = [genes for genes, group in zip(maps, space.groups, strict=True) if group.size > group.minimum]
        change = _loss_changes(context, np.concatenate(prunable or [np.empty(0, np.int64)]), space.maps)
        return [LayerValues(genes, change[genes]) for genes in maps]

    def kernels(self, context: CriterionContext) -> list[np.ndarray]:
        """As `Criterion.kernels`: many evaluations if there are many kernel genes."""
        space = context.space
        genes = np.concatenate([np.arange(kernels.start, kernels.start + kernels.size) for kernels in space.kernels])
        change = _loss_changes(context, genes, space.genes)
        return [change[kernels.genes] for kernels in space.kernels]


def _loss_changes(context: CriterionContext, genes: np.ndarray, size: int) -> np.ndarray:
    """|change of the loss| if one of these genes is 0, at the gene's place. Returns float64 (size,)."""
    unpruned = context.space.full()
    genomes = [unpruned]
    for gene in genes:
        genome = unpruned.copy()
        genome[gene] = 0
        genomes.append(genome)
    reference, *losses = context.losses(genomes)
    change = np.zeros(size)
    change[genes] = np.abs(np.array(losses) - reference)
    return change
