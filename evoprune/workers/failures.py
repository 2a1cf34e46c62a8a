"""Candidates that cannot be scored: what stands for their scores, and when the run ends."""

import logging

from evoprune.errors import WorkerError
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome

TRIES = 3
"""Number of times that a candidate may end its worker, hang or raise before it is set aside."""

_log = logging.getLogger(__name__)


class FailedCandidates:
    """Counts the candidates of one problem that cannot be scored. If none can be, the candidates are not the cause."""

    def __init__(self, problem: Problem):
        self._problem = problem
        self._failed = 0
        self._any_scored = False

    def note_scored(self) -> None:
        """Notes that some candidate has a score."""
        self._any_scored = True

    def outcome(self, genome: Genome, reason: str) -> Outcome:
        """Warns of a failed candidate and returns the outcome that stands for its score.

        Raises:
            WorkerError: The first `TRIES` candidates all failed.
        """
        self._failed += 1
        if self._failed >= TRIES and not self._any_scored:
            raise WorkerError(
                f"none of the first {self._failed} candidates can be scored ({reason}); "
                "set workers.backend to serial to see what is wrong, and see workers.timeout_s and workers.memory"
            )
        key = self._problem.space.key(genome)
        _log.warning("candidate %s is set aside as failed after %d tries (%s)", key, TRIES, reason)
        return self._problem.failed(genome)
