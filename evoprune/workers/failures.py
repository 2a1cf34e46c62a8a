"""What all kinds of workers have in common: whom they tell, and what becomes of a candidate that cannot be scored."""

from collections.abc import Callable

from evoprune.errors import WorkerError
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.training.fit import EpochReport, FitState

Note = Callable[[str], None]
"""Told of workers and candidates that are lost."""

OnScore = Callable[[int], None]
"""Told how many candidates are scored by now."""

OnEpoch = Callable[[int, EpochReport, FitState], None]
"""Told a network's index, what its epoch was like, and the state after it."""

TRIES = 3
"""How often a candidate that ends its worker, hangs or cannot be scored is tried before it is set aside."""


class FailedCandidates:
    """Candidates that cannot be scored, whatever is tried. One is its own fault; where it is all of them, it is not."""

    def __init__(self, problem: Problem, note: Note):
        self._problem = problem
        self._note = note
        self._failed = 0
        self._scored = False

    def scored(self) -> None:
        """Some candidate has a score."""
        self._scored = True

    def outcome(self, genome: Genome, reason: str) -> Outcome:
        """What stands in the place of a score. Raises WorkerError where none of several candidates has one."""
        self._failed += 1
        if self._failed >= TRIES and not self._scored:
            raise WorkerError(
                f"none of the first {self._failed} candidates can be scored ({reason}); "
                "set workers.backend to serial to see what is wrong, and see workers.timeout_s and workers.memory"
            )
        key = self._problem.space.key(genome)
        self._note(f"candidate {key} is set aside as failed after {TRIES} tries ({reason})")
        return self._problem.failed(genome)
