"""Pruning by a ranking alone: a criterion decides which maps go, the cost or the tolerance decides how many."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.plugins.kinds import algorithm
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm
from evoprune.search.fit_to_cost import CostOf
from evoprune.search.inputs import SearchInputs
from evoprune.search.objective import Objective
from evoprune.search.ranking import most_maps_within, rank_maps, top_ranked
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


class RankingSearch(Algorithm):
    """Every genome keeps the first maps of one ranking; nothing is random.

    With targets, genomes keep as many maps as each target allows; later generations repeat them, and their scores are
    known by then. Without targets, the first generation keeps numbers of maps at even steps; later ones look between
    the fewest maps that were within the tolerance and the most below them that were not.
    """

    def __init__(self, space: SearchSpace, order: np.ndarray, objective: Objective, cost_of: CostOf):
        """Works out how many maps each target allows.

        Args:
            space: search space of the genomes.
            order: int64 (maps,), the ranking: see `rank_maps`.
            objective: by which candidates are compared, and the targets.
            cost_of: cost of a genome.
        """
        super().__init__(objective)
        self._space = space
        self._order = order
        self._cost_of = cost_of
        self._counts_at_targets = [most_maps_within(space, order, target, cost_of) for target in objective.targets]
        self._asked = 0
        self._too_few: list[int] = []  # Numbers of maps at which the errors passed the tolerance, ascending.

    def ask(self, count: int) -> list[Genome]:
        """Genomes that keep the first maps of the ranking."""
        asked, self._asked = self._asked, self._asked + count
        unpruned = [] if asked else [self._space.full()]
        counts = self._next_counts(asked, count - len(unpruned))
        return [*unpruned, *(top_ranked(self._space, self._order, kept) for kept in counts)]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Notes which numbers of maps are too few."""
        super().tell(candidates)
        failed = {self._kept_maps(one) for one in candidates if one.score.feasible is False}
        self._too_few = sorted({*self._too_few, *failed})

    def state(self) -> dict[str, Any]:
        """The number of genomes asked for, the numbers of maps that are too few, and the keys of the front."""
        return {"asked": self._asked, "too_few": self._too_few, **super().state()}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state, as `Algorithm.restore`."""
        super().restore(state, candidates)
        self._asked = state["asked"]
        self._too_few = list(state["too_few"])

    def _next_counts(self, asked: int, count: int) -> list[int]:
        """The numbers of maps that the next genomes keep."""
        if targets := self._counts_at_targets:
            ranked_before = max(asked - 1, 0)  # The unpruned network is not one of the ranked genomes.
            return [targets[number % len(targets)] for number in range(ranked_before, ranked_before + count)]
        if not asked:
            return np.linspace(0, self._space.maps, count, endpoint=False).astype(int).tolist()
        return np.linspace(*self._bracket(), count + 2)[1:-1].round().astype(int).tolist()

    def _bracket(self) -> tuple[int, int]:
        """The most maps that are too few, and the fewest that are enough."""
        enough = self._kept_maps(self.front[0]) if self.front else self._space.maps
        return max((count for count in self._too_few if count < enough), default=0), enough

    def _kept_maps(self, candidate: Candidate) -> int:
        """The number of maps of the ranking that a candidate keeps."""
        return most_maps_within(self._space, self._order, self._objective.cost_of(candidate), self._cost_of)


@algorithm("ranking")
def make_ranking_search(inputs: SearchInputs) -> Algorithm:
    """No search: the criterion decides at each target, or as far as the tolerance allows."""
    order = rank_maps(inputs.space, inputs.preferences.importance, inputs.settings.scope)
    return RankingSearch(inputs.space, order, inputs.objective, inputs.cost_of)
