"""Children bred by the litter, of which the most promising one is scored."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evoprune.search.breeding import Breeder
from evoprune.search.surrogate import Surrogate
from evoprune.space.plan import Genome

LITTER = 16
"""Children of other widths of which one is scored."""


@dataclass(frozen=True, eq=False)
class Litters:
    """Children of other widths by the litter, the surrogate says which one; and children of other maps one by one.

    of_widths, of_maps: who breeds them. share_of_maps: the share of the latter, of whom the surrogate knows nothing.
    """

    of_widths: Breeder
    of_maps: Breeder
    share_of_maps: float
    surrogate: Surrogate

    def child_at(self, parent: Callable[[], Genome], target: float | None, rng: np.random.Generator) -> Genome:
        """As `Breeder.child_at`."""
        if rng.random() < self.share_of_maps:
            return self.of_maps.child_at(parent, target, rng)
        return self.surrogate.most_promising([self.of_widths.child_at(parent, target, rng) for _ in range(LITTER)])
