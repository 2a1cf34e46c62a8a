"""Ranking: no search at all, the criterion alone says what goes, and the cost or the tolerance how much."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.scoring.candidate import Candidate
from evoprune.search.fit_to_cost import CostOf
from evoprune.search.objective import Objective
from evoprune.search.ranking import most_important, most_within
from evoprune.search.selection import feasible_front
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


class RankingSearch:
    """Every genome keeps the first maps of one order; nothing is drawn.

    With targets as many as each one allows, over and over: what is asked again is known. Without any, so many at even
    steps, then those between the fewest maps that were within the tolerance and the most below them that were not.
    order: int64 (maps,), as of `ranking`.
    """

    def __init__(self, space: SearchSpace, order: np.ndarray, objective: Objective, cost_of: CostOf):
        self._space = space
        self._order = order
        self._objective = objective
        self._cost_of = cost_of
        self._at_targets = [most_within(space, order, target, cost_of) for target in objective.targets]
        self._asked = 0
        self._too_few: list[int] = []  # how many maps stayed where errors passed the tolerance
        self.front: list[Candidate] = []

    def known(self) -> tuple[tuple[float, float], ...]:
        """The front: what it beats is not kept."""
        return self._objective.known(self.front)

    def ask(self, count: int) -> list[Genome]:
        """So many ranked genomes; the very first one is the whole network."""
        asked, self._asked = self._asked, self._asked + count
        whole = [] if asked else [self._space.full()]
        ranked = self._counts(asked, count - len(whole))
        return [*whole, *(most_important(self._space, self._order, stays) for stays in ranked)]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored candidates of what was asked last."""
        self.front = feasible_front([*self.front, *candidates], self._objective)
        failed = {self._stays(one) for one in candidates if one.score.feasible is False}
        self._too_few = sorted({*self._too_few, *failed})

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {
            "asked": self._asked,
            "too_few": self._too_few,
            "front": [candidate.key for candidate in self.front],
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._asked = state["asked"]
        self._too_few = list(state["too_few"])
        self.front = [candidates[key] for key in state["front"]]

    def _counts(self, asked: int, count: int) -> list[int]:
        """How many maps stay of what is asked for next."""
        if targets := self._at_targets:
            before = max(asked - 1, 0)  # the whole network was none of theirs
            return [targets[place % len(targets)] for place in range(before, before + count)]
        if not asked:
            return np.linspace(0, self._space.maps, count, endpoint=False).astype(int).tolist()
        return np.linspace(*self._between(), count + 2)[1:-1].round().astype(int).tolist()

    def _between(self) -> tuple[int, int]:
        """The most maps below the fewest that are enough which are too few; and these."""
        enough = self._stays(self.front[0]) if self.front else self._space.maps
        return max((count for count in self._too_few if count < enough), default=0), enough

    def _stays(self, candidate: Candidate) -> int:
        """How many maps of the order stay of a candidate."""
        return most_within(self._space, self._order, self._objective.cost_of(candidate), self._cost_of)
