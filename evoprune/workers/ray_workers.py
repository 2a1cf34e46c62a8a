"""Ray actors that score and retrain. Results are placed by the index of their genome, never by arrival."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evoprune.config.schema import WorkersConfig
from evoprune.errors import WorkerError
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.losses import Examples
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.training.fit import EpochReport, FitState
from evoprune.workers.actor_pool import ActorPool, Failure, Job
from evoprune.workers.failures import TRIES, FailedCandidates
from evoprune.workers.protocol import OnEpoch, OnScore
from evoprune.workers.retraining import Retraining

CHUNKS = 16
"""Least number of calls into which each worker's share of a submission is divided, so that all workers end together."""


@dataclass(frozen=True, eq=False)
class _Task:
    """Some genomes of a submission, as bytes.

    start: Index of the first genome in the submission.
    conditions: Reference to the conditions, in a list.
    """

    ticket: int
    start: int
    conditions: list[Any]
    genomes: list[bytes]


@dataclass(eq=False)
class _Submission:
    """Genomes that were submitted together. count: their number. outcomes: by index, as they arrive."""

    count: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class RayWorkers:
    """The actors of a pool. Network and data are sent once to a node; candidates travel as bytes.

    Args:
        pool: The actors, which other problems may use, too.
        problem: The problem whose candidates are scored.
        config: Section `workers` of a config.
        at_most: The number of actors that work; None: all.
    """

    def __init__(self, pool: ActorPool, problem: Problem, config: WorkersConfig, at_most: int | None = None):
        self._pool = pool
        self._at_most = at_most
        self._config = config
        self._failed = FailedCandidates(problem)
        shared = pool.put(problem)
        self._problem = shared
        self._prepare = lambda actor: actor.prepare.remote(shared)
        self._tickets = 0
        self._submissions: dict[int, _Submission] = {}
        self._references: dict[type, tuple[object, list[Any]]] = {}  # by type: the last value, and its reference

    @property
    def count(self) -> int:
        """The number of actors that work."""
        return min(self._pool.size, self._at_most or self._pool.size)

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        """Sends genomes to the actors in chunks. Returns the ticket for `collect`."""
        self._pool.prepare_with(self._prepare, self._at_most)
        ticket, self._tickets = self._tickets, self._tickets + 1
        shared = self._reference_to(conditions)
        chunk = max(1, min(16, len(genomes) // (CHUNKS * self.count)))
        self._submissions[ticket] = _Submission(len(genomes))
        for start in range(0, len(genomes), chunk):
            data = [genome.tobytes() for genome in genomes[start : start + chunk]]
            # several genomes get one try together; then each is tried on its own
            self._submit(_Task(ticket, start, shared, data), TRIES if len(data) == 1 else 1)
        return ticket

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        """Waits for the outcomes of a submission, in the order of its genomes."""
        submission = self._submissions[ticket]
        try:
            while len(submission.outcomes) < submission.count:
                job, result = self._pool.next_result()
                if self._place(job.payload, result) is submission:
                    on_score(len(submission.outcomes))
        except BaseException:  # an interrupted submission is dropped as a whole
            self._cancel_all()
            raise
        del self._submissions[ticket]
        return [submission.outcomes[index] for index in range(submission.count)]

    def _place(self, task: _Task, result: list[Outcome] | Failure) -> _Submission:
        """Places a task's outcomes in its submission and returns it. Genomes that failed together are tried singly."""
        submission = self._submissions[task.ticket]
        if not isinstance(result, Failure):
            submission.outcomes.update(enumerate(result, task.start))
            self._failed.note_scored()
        elif len(task.genomes) == 1:
            genome = np.frombuffer(task.genomes[0], dtype=np.uint8)
            submission.outcomes[task.start] = self._failed.outcome(genome, result.reason)
        else:
            for index, data in enumerate(task.genomes, task.start):
                self._submit(_Task(task.ticket, index, task.conditions, [data]), TRIES - 1)
        return submission

    def _submit(self, task: _Task, tries: int) -> None:
        limit = self._config.timeout_s
        self._pool.submit(
            Job(
                call=lambda actor: actor.score.remote(self._problem, task.conditions, task.genomes),
                payload=task,
                timeout_s=None if limit is None else limit * len(task.genomes),
                tries=tries,
            )
        )

    def _reference_to(self, value: Conditions | Retraining) -> list[Any]:
        """A reference to a value that consecutive calls share, so that it is sent once."""
        held = self._references.get(type(value))
        if held is None or held[0] is not value:
            held = self._references[type(value)] = value, self._pool.put(value)
        return held[1]

    def _cancel_all(self) -> None:
        self._submissions.clear()
        self._pool.cancel_all()

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        """Trains networks at the same time, one epoch a job, so that a lost actor costs one epoch."""
        shared = self._reference_to(retraining)
        reached = list(states)

        def job(index: int) -> Job | None:
            """The next epoch of a network; None after its last one."""
            data, state = genomes[index].tobytes(), reached[index]
            if state is not None and state.epoch >= retraining.last_epoch:
                return None
            return Job(
                call=lambda actor: actor.epoch.remote(self._problem, shared, data, state),
                payload=index,
                timeout_s=self._config.epoch_timeout_s,
                tries=TRIES,
                may_queue=False,
            )

        def done(index: int, result: tuple[EpochReport | None, FitState]) -> Job | None:
            report, state = result
            reached[index] = state
            if report is not None:
                on_epoch(index, report, state)
            return job(index)

        self._run_all([job(index) for index in range(len(genomes))], done, "retraining")
        return [state for state in reached if state is not None]

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        """The mean cross entropy of each genome's network, one network a job."""
        shared = self._pool.put(examples)
        found: dict[int, float] = {}

        def job(index: int) -> Job:
            data = genomes[index].tobytes()
            return Job(
                call=lambda actor: actor.loss.remote(self._problem, shared, data),
                payload=index,
                timeout_s=self._config.timeout_s,
                tries=TRIES,
            )

        def done(index: int, result: float) -> None:
            found[index] = result

        self._run_all([job(index) for index in range(len(genomes))], done, "a network's loss")
        return [found[index] for index in range(len(genomes))]

    def _run_all(self, jobs: Sequence[Job | None], done: Callable[[int, Any], Job | None], what: str) -> None:
        """Runs jobs, and the jobs that `done` returns when one is finished.

        Args:
            jobs: The first jobs; None is skipped.
            done: Called with a finished job's payload and result. Returns the job that follows it, or None.
            what: What a job is, for messages.

        Raises:
            WorkerError: A job was given up.
        """
        self._pool.prepare_with(self._prepare, self._at_most)
        first = [job for job in jobs if job is not None]
        for job in first:
            self._pool.submit(job)
        left = len(first)
        try:
            while left:
                job, result = self._pool.next_result()
                if isinstance(result, Failure):
                    raise WorkerError(
                        f"{what} ends its worker {TRIES} times in turn ({result.reason}); see that machines have the "
                        "memory for it and the time (workers.epoch_timeout_s, workers.timeout_s)"
                    )
                following = done(job.payload, result)
                if following is None:
                    left -= 1
                else:
                    self._pool.submit(following)
        except BaseException:
            self._cancel_all()
            raise
