"""Children of other widths, for a target by the litter, and children of other maps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evoprune.search.breeding import Breeder
from evoprune.search.fit_to_cost import CostOf
from evoprune.search.surrogate import Surrogate
from evoprune.space.plan import Genome


@dataclass(frozen=True, eq=False)
class PreSelection:
    """Children of other widths, for a target the one of a litter that the surrogate says; and children of other maps.

    of_widths, of_maps: who breeds them. share_of_maps: the share of the latter, of whom the surrogate knows nothing.
    size: children of a litter; 1: the surrogate is not asked.
    """

    of_widths: Breeder
    of_maps: Breeder
    share_of_maps: float
    size: int
    surrogate: Surrogate

    @property
    def whole(self) -> Genome:
        return self.of_widths.whole

    @property
    def cost_of(self) -> CostOf:
        return self.of_widths.cost_of

    def starts(self, size: int, rng: np.random.Generator) -> list[Genome]:
        """As `Breeding.starts`: several widths."""
        return self.of_widths.starts(size, rng)

    def child_at(self, parent: Callable[[], Genome], target: float | None, rng: np.random.Generator) -> Genome:
        """As `Breeding.child_at`."""
        if rng.random() < self.share_of_maps:
            return self.of_maps.child_at(parent, target, rng)
        if target is None or self.size == 1:
            return self.of_widths.child_at(parent, target, rng)
        return self.surrogate.most_promising([self.of_widths.child_at(parent, target, rng) for _ in range(self.size)])

    def fitted(self, genome: Genome, target: float, rng: np.random.Generator) -> Genome:
        """As `Breeding.fitted`."""
        return self.of_widths.fitted(genome, target, rng)
