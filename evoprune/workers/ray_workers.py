"""A team of Ray actors scores and retrains. Results are put by the index of what was asked for, never by arrival."""

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
from evoprune.workers.failures import TRIES, FailedCandidates, Note, OnEpoch, OnScore
from evoprune.workers.retraining import Retraining

CHUNKS = 16
"""Into how many calls, at least, each worker's share of what was handed over is divided: the last ones end together."""


@dataclass(frozen=True, eq=False)
class _Task:
    """Some genomes of an order, as bytes; start: the first one's place in it. conditions: a reference, in a list."""

    ticket: int
    start: int
    conditions: list[Any]
    genomes: list[bytes]


@dataclass(eq=False)
class _Order:
    """What was handed over together: how many genomes, and their outcomes by place as they arrive."""

    count: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class RayWorkers:
    """A team of Ray actors; network and data are sent once a node, candidates travel as bytes.

    at_most: only so many of the actors work, None: all.
    """

    def __init__(
        self,
        actors: ActorPool,
        problem: Problem,
        config: WorkersConfig,
        note: Note = lambda text: None,
        at_most: int | None = None,
    ):
        self._actor_pool = actors
        self._at_most = at_most
        self._config = config
        self._set_aside = FailedCandidates(problem, note)
        shared = actors.share(problem)
        self._problem = shared
        self._prepare = lambda actor: actor.prepare.remote(shared)
        self._tickets = 0
        self._orders: dict[int, _Order] = {}
        self._sent: dict[type, tuple[object, list[Any]]] = {}  # by kind: the last one that was shared, its reference

    @property
    def count(self) -> int:
        return min(self._actor_pool.size, self._at_most or self._actor_pool.size)

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        self._actor_pool.work_on(self._prepare, self._at_most)
        ticket, self._tickets = self._tickets, self._tickets + 1
        shared = self._shared(conditions)
        chunk = max(1, min(16, len(genomes) // (CHUNKS * self.count)))
        self._orders[ticket] = _Order(len(genomes))
        for start in range(0, len(genomes), chunk):
            data = [genome.tobytes() for genome in genomes[start : start + chunk]]
            # several at once get one try together: then each is tried by itself
            self._give(_Task(ticket, start, shared, data), TRIES if len(data) == 1 else 1)
        return ticket

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        order = self._orders[ticket]
        try:
            while len(order.outcomes) < order.count:
                job, result = self._actor_pool.take()
                if self._sorted_in(job.what, result) is order:
                    on_score(len(order.outcomes))
        except BaseException:  # whatever ends this ends what was handed over: the next one starts afresh
            self._forget()
            raise
        del self._orders[ticket]
        return [order.outcomes[index] for index in range(order.count)]

    def _sorted_in(self, task: _Task, result: list[Outcome] | Failure) -> _Order:
        """Puts outcomes at their places; those that failed together are tried each by itself. Returns the order."""
        order = self._orders[task.ticket]
        if not isinstance(result, Failure):
            order.outcomes.update(enumerate(result, task.start))
            self._set_aside.scored()
        elif len(task.genomes) == 1:
            genome = np.frombuffer(task.genomes[0], dtype=np.uint8)
            order.outcomes[task.start] = self._set_aside.outcome(genome, result.reason)
        else:
            for place, data in enumerate(task.genomes, task.start):
                self._give(_Task(task.ticket, place, task.conditions, [data]), TRIES - 1)
        return order

    def _give(self, task: _Task, tries: int) -> None:
        limit = self._config.timeout_s
        self._actor_pool.give(
            Job(
                ask=lambda actor: actor.score.remote(self._problem, task.conditions, task.genomes),
                what=task,
                seconds=None if limit is None else limit * len(task.genomes),
                tries=tries,
            )
        )

    def _shared(self, value: Conditions | Retraining) -> list[Any]:
        """A reference to what several calls in turn have alike, which is sent once for all of them."""
        held = self._sent.get(type(value))
        if held is None or held[0] is not value:
            held = self._sent[type(value)] = value, self._actor_pool.share(value)
        return held[1]

    def _forget(self) -> None:
        self._orders.clear()
        self._actor_pool.forget()

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        shared = self._shared(retraining)
        reached = list(states)

        def job(index: int) -> Job | None:
            """The next epoch of a network; None where it has had them all."""
            data, state = genomes[index].tobytes(), reached[index]
            if state is not None and state.epoch >= retraining.last_epoch:
                return None
            return Job(
                ask=lambda actor: actor.epoch.remote(self._problem, shared, data, state),
                what=index,
                seconds=self._config.epoch_timeout_s,
                tries=TRIES,
                queued=False,
            )

        def done(index: int, result: tuple[EpochReport | None, FitState]) -> Job | None:
            report, state = result
            reached[index] = state
            if report is not None:
                on_epoch(index, report, state)
            return job(index)

        self._all_of([job(index) for index in range(len(genomes))], done, "retraining")
        return [state for state in reached if state is not None]

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        shared = self._actor_pool.share(examples)
        found: dict[int, float] = {}

        def job(index: int) -> Job:
            data = genomes[index].tobytes()
            return Job(
                ask=lambda actor: actor.loss.remote(self._problem, shared, data),
                what=index,
                seconds=self._config.timeout_s,
                tries=TRIES,
            )

        def done(index: int, result: float) -> None:
            found[index] = result

        self._all_of([job(index) for index in range(len(genomes))], done, "a network's loss")
        return [found[index] for index in range(len(genomes))]

    def _all_of(self, jobs: Sequence[Job | None], done: Callable[[int, Any], Job | None], what: str) -> None:
        """Has jobs done, and those that `done` gives in the place of each. Raises WorkerError where one is given up."""
        self._actor_pool.work_on(self._prepare, self._at_most)
        given = [job for job in jobs if job is not None]
        for job in given:
            self._actor_pool.give(job)
        left = len(given)
        try:
            while left:
                job, result = self._actor_pool.take()
                if isinstance(result, Failure):
                    raise WorkerError(
                        f"{what} ends its worker {TRIES} times in turn ({result.reason}); see that machines have the "
                        "memory for it and the time (workers.epoch_timeout_s, workers.timeout_s)"
                    )
                following = done(job.what, result)
                if following is None:
                    left -= 1
                else:
                    self._actor_pool.give(following)
        except BaseException:
            self._forget()
            raise
