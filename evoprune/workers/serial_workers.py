"""Workers without Ray: this process scores and retrains."""

from collections import deque
from collections.abc import Sequence

import torch

from evoprune.errors import UserError, type_and_first_line
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.losses import Examples, loss_of
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.training.fit import FitState
from evoprune.training.threads import torch_threads
from evoprune.workers.failures import TRIES, FailedCandidates
from evoprune.workers.protocol import OnEpoch, OnScore
from evoprune.workers.retraining import Retrainer, Retraining


class SerialWorkers:
    """This process alone, one candidate after the other."""

    count = 1

    def __init__(self, problem: Problem, device: torch.device, threads: int):
        self._problem = problem
        self._device = device
        self._threads = threads
        self._failed = FailedCandidates(problem)
        self._scorer = problem.scorer(device)
        self._waiting: deque[tuple[list[Genome], Conditions]] = deque()

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        """Queues genomes, which `collect` scores. Returns the ticket."""
        self._waiting.append((list(genomes), conditions))
        return len(self._waiting)

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        """Scores the genomes that were queued first."""
        genomes, conditions = self._waiting.popleft()
        outcomes = []
        with torch_threads(self._threads):
            self._scorer.set_conditions(conditions)
            for genome in genomes:
                outcomes.append(self._outcome(genome, conditions))
                on_score(len(outcomes))
        return outcomes

    def _outcome(self, genome: Genome, conditions: Conditions) -> Outcome:
        """The outcome of one genome, which is tried `TRIES` times."""
        for left in reversed(range(TRIES)):
            try:
                outcome = self._scorer.score(genome)
            except UserError:
                raise
            except Exception as error:
                self._scorer = self._problem.scorer(self._device)  # its network may be in an unfinished state
                self._scorer.set_conditions(conditions)
                if not left:
                    return self._failed.outcome(genome, type_and_first_line(error))
            else:
                break
        self._failed.note_scored()
        return outcome

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        """Trains one network after the other."""
        retrainer = Retrainer(self._problem, retraining, self._device)
        reached = []
        with torch_threads(self._threads):
            for index, (genome, reached_before) in enumerate(zip(genomes, states, strict=True)):
                state = reached_before or retrainer.start(genome)
                while state.epoch < retraining.last_epoch:
                    report, state = retrainer.epoch(genome, state)
                    on_epoch(index, report, state)
                reached.append(state)
        return reached

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        """The mean cross entropy of each genome's network."""
        with torch_threads(self._threads):
            return [loss_of(self._problem, genome, examples, self._device) for genome in genomes]
