"""The interfaces of workers: they score, retrain and measure candidates, in this process or elsewhere."""

from collections.abc import Callable, Sequence
from typing import Protocol

from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.losses import Examples
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.training.fit import EpochReport, FitState
from evoprune.workers.retraining import Retraining

OnScore = Callable[[int], None]
"""Called with the number of candidates that are scored so far."""

OnEpoch = Callable[[int, EpochReport, FitState], None]
"""Called with a network's index, the report of its epoch, and the state after it."""


class Workers(Protocol):
    """Scores, retrains and measures candidates of one problem. All results are in the order of the genomes."""

    @property
    def count(self) -> int:
        """The number of candidates that are worked on at once."""

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        """Queues genomes for scoring behind those submitted before. Returns at once, with a ticket for `collect`."""

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        """Waits for the outcomes of a submission. Tickets are collected in their order."""

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        """Trains each genome's network from its state (None: from its start) to the end of the schedule.

        Raises:
            TrainingError: A loss is not finite.
            WorkerError: A worker cannot train a network.
        """

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        """The mean loss of each genome's network, as `losses.loss_of` computes it."""


class WorkerPool(Protocol):
    """Workers that have been started and checked, before there is a problem to work on."""

    def workers(self, problem: Problem) -> Workers:
        """The pool's workers, which hold this problem."""


def score(
    workers: Workers, genomes: Sequence[Genome], conditions: Conditions, on_score: OnScore = lambda done: None
) -> list[Outcome]:
    """Submits genomes and waits for their outcomes, which come in the order of the genomes."""
    return workers.collect(workers.submit(genomes, conditions), on_score)
