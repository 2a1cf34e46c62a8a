"""An algorithm of the user's own: its calls are checked, and its front is kept for it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.errors import PluginError, SearchSpaceError, first_line
from evoprune.plugins.guard import plugin_call, plugin_error
from evoprune.plugins.kinds import ALGORITHMS
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm
from evoprune.search.inputs import SearchInputs
from evoprune.space.plan import Genome


class OwnAlgorithm(Algorithm):
    """Calls a user's algorithm. Its mistakes are errors of one line that name it and the call."""

    def __init__(self, reference: str, make: Any, inputs: SearchInputs):
        """Makes the user's algorithm.

        Args:
            reference: its name in the config, `module:attribute`.
            make: a subclass of `Algorithm`, or another callable that makes one from the inputs.
            inputs: what it is made from.

        Raises:
            PluginError: it fails, or makes something else.
        """
        super().__init__(inputs.objective)
        self._reference = reference
        self._space = inputs.space
        self._first = True
        if not callable(make):
            raise PluginError(f"{ALGORITHMS.key}: {reference} must be a subclass of ep.Algorithm, not a {_type(make)}")
        with self._calling("its constructor"):
            self._own = make(inputs)
        if not isinstance(self._own, Algorithm):
            raise PluginError(f"{ALGORITHMS.key}: {reference} must make an ep.Algorithm, not a {_type(self._own)}")

    def ask(self, count: int) -> list[Genome]:
        """As `Algorithm.ask`."""
        with self._calling("ask"):
            asked = list(self._own.ask(count))
        if len(asked) != count:
            raise self._error("ask", f"returned {len(asked)} genomes, not {count}")
        genomes = []
        for genome in asked:
            if problem := self._misfit(genome):
                raise self._error("ask", problem)
            genomes.append(np.array(genome, dtype=np.uint8))
        if self._first and self._space.key(genomes[0]) != self._space.key(self._space.full()):
            raise self._error("ask", "must return the unpruned network, space.full(), as the very first genome")
        self._first = False
        return genomes

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """As `Algorithm.tell`."""
        super().tell(candidates)
        self._hand_on_front()
        with self._calling("tell"):
            self._own.tell(candidates)
        self._hand_on_front()
        self.state()  # a state that cannot be stored is found before the generation is

    def dominance_bounds(self) -> tuple[tuple[float, float], ...]:
        """As `Algorithm.dominance_bounds`."""
        with self._calling("dominance_bounds"):
            return tuple((float(cost), float(fitness)) for cost, fitness in self._own.dominance_bounds())

    def state(self) -> dict[str, Any]:
        """The keys of the front, and the user's own state as JSON."""
        with self._calling("state"):
            own = self._own.state()
            text = json.dumps(own, allow_nan=False)
        if json.loads(text) != own:
            raise self._error("state", "must return plain JSON data (with texts as keys, and lists for tuples)")
        return {**super().state(), "own": text}

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """As `Algorithm.restore`."""
        super().restore(state, candidates)
        self._first = False
        self._hand_on_front()
        with self._calling("restore"):
            self._own.restore(json.loads(state["own"]), candidates)
        self._hand_on_front()

    def _hand_on_front(self) -> None:
        self._own.front = list(self.front)

    def _misfit(self, genome: Any) -> str | None:
        """The fault of a genome; None if it has none."""
        if not isinstance(genome, np.ndarray) or genome.dtype != np.uint8 or genome.shape != (self._space.genes,):
            found = f"{genome.dtype} {genome.shape}" if isinstance(genome, np.ndarray) else f"a {_type(genome)}"
            return f"returned a genome that is {found}, not uint8 ({self._space.genes},)"
        if (bad := np.flatnonzero(genome >= self._space.cardinality)).size:
            gene = int(bad[0])
            return f"returned {genome[gene]} for gene {gene}, which must be below {self._space.cardinality[gene]}"
        try:
            self._space.check(genome)
        except SearchSpaceError as error:
            return f"returned a genome that the space refuses ({first_line(error)}); space.repair mends it"
        return None

    def _calling(self, call: str) -> Any:
        return plugin_call(ALGORITHMS.key, self._reference, call)

    def _error(self, call: str, problem: str) -> PluginError:
        return plugin_error(ALGORITHMS.key, self._reference, call, problem)


def _type(value: object) -> str:
    return type(value).__name__
