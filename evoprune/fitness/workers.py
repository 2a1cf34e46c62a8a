"""Who scores and retrains: this process alone, or Ray actors, one a core or a share of a GPU each.

Both give the same answers in the same order: results are put by the index of what was asked for, never by arrival.
"""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from evoprune.config import WorkersConfig
from evoprune.errors import UserError, WorkerError
from evoprune.fitness.actor import Actor, import_paths
from evoprune.fitness.candidate import Outcome
from evoprune.fitness.cluster import check_answers, no_answer
from evoprune.fitness.conditions import Conditions
from evoprune.fitness.losses import Examples, loss_of
from evoprune.fitness.retraining import Retrainer, Retraining
from evoprune.fitness.scoring import Problem
from evoprune.fitness.team import Failure, Job, Note, Team, first_line
from evoprune.nets.threads import torch_threads
from evoprune.nets.training import EpochReport, FitState
from evoprune.space.plan import Genome

OnScore = Callable[[int], None]
"""Told how many candidates are scored by now."""

OnEpoch = Callable[[int, EpochReport, FitState], None]
"""Told a network's index, what its epoch was like, and the state after it."""

TRIES = 3
"""How often a candidate that ends its worker, hangs or cannot be scored is tried before it is set aside."""

CHUNKS = 16
"""Into how many calls, at least, each worker's share of what was handed over is divided: the last ones end together."""


class Workers(Protocol):
    """Scores candidates and retrains survivors of one problem."""

    @property
    def count(self) -> int:
        """How many work at once."""

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        """Hands genomes over to be scored, after those before; does not wait. Returns a ticket for `collect`."""

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        """What scoring them says, in the order of the genomes; waits for it. Tickets are collected in their order."""

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        """Trains each genome's network from its state (None: from the start) to the end of the schedule."""

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        """The mean cross entropy of each genome's network, as `losses.loss_of`."""


def score(
    workers: Workers, genomes: Sequence[Genome], conditions: Conditions, on_score: OnScore = lambda done: None
) -> list[Outcome]:
    """Hands genomes over and waits for what scoring them says, in their order."""
    return workers.collect(workers.submit(genomes, conditions), on_score)


class Crew(Protocol):
    """Where work is done, checked and ready before there is a problem to work on."""

    def workers(self, problem: Problem) -> Workers:
        """Workers that hold this problem."""


@contextmanager
def open_crew(config: WorkersConfig, device: torch.device, note: Note = lambda text: None) -> Iterator[Crew]:
    """What the config asks for, for as long as the context lasts. note: told of workers and candidates that are lost.

    Raises WorkerError where no cluster answers, or it has fewer cores or GPUs than asked for.
    """
    if config.backend == "serial":
        yield SerialCrew(device, config.threads, note)
        return
    with _ray_cluster(config) as ray:
        yield RayCrew(_team(ray, config, device, note), config, note)


def _team(ray: Any, config: WorkersConfig, device: torch.device, note: Note) -> Team:
    """Actors on this cluster, as many as the config asks for; by `auto`, as many as it has room for at any time."""

    def cores_and_gpus() -> tuple[int, int]:
        resources = ray.cluster_resources()
        return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))

    count, gpu_share = how_many(config, device, *cores_and_gpus())
    # no restarts by Ray: one that was on a node that left would wait for ever for another one
    remote = ray.remote(Actor).options(num_cpus=config.threads, num_gpus=gpu_share, max_restarts=0)

    def enlist() -> Any:
        return remote.remote(ray.get, import_paths(), config.threads, device.type)

    def wanted() -> int:
        try:
            return how_many(config, device, *cores_and_gpus())[0]
        except WorkerError:  # nodes have left: those that were asked for are there again when they come back
            return 1 if config.count == "auto" else count

    return Team(ray, enlist, wanted, note)


@dataclass(frozen=True)
class SerialCrew:
    """This process alone, with as many threads as one worker has elsewhere: sums come out the same."""

    device: torch.device
    threads: int
    note: Note = lambda text: None

    def workers(self, problem: Problem) -> Workers:
        return SerialWorkers(problem, self.device, self.threads, self.note)


@dataclass(frozen=True)
class RayCrew:
    """A Ray cluster, and a team of actors on it, one a worker."""

    team: Team
    config: WorkersConfig
    note: Note = lambda text: None

    def workers(self, problem: Problem) -> Workers:
        return RayWorkers(self.team, problem, self.config, self.note)


class SetAside:
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


class SerialWorkers:
    """This process alone."""

    count = 1

    def __init__(self, problem: Problem, device: torch.device, threads: int, note: Note):
        self._problem = problem
        self._device = device
        self._threads = threads
        self._set_aside = SetAside(problem, note)
        self._scorer = problem.scorer(device)
        self._waiting: deque[tuple[list[Genome], Conditions]] = deque()

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        self._waiting.append((list(genomes), conditions))
        return len(self._waiting)

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        genomes, conditions = self._waiting.popleft()
        outcomes = []
        with torch_threads(self._threads):
            self._scorer.under(conditions)
            for genome in genomes:
                outcomes.append(self._outcome(genome, conditions))
                on_score(len(outcomes))
        return outcomes

    def _outcome(self, genome: Genome, conditions: Conditions) -> Outcome:
        """Its score, tried several times; no worker but this process can be lost."""
        for left in reversed(range(TRIES)):
            try:
                outcome = self._scorer.score(genome)
            except UserError:
                raise
            except Exception as error:
                self._scorer = self._problem.scorer(self._device)  # one that was left half-way is not to go on with
                self._scorer.under(conditions)
                if not left:
                    return self._set_aside.outcome(genome, first_line(error))
            else:
                break
        self._set_aside.scored()
        return outcome

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        retrainer = Retrainer(self._problem, retraining, self._device)
        reached = []
        with torch_threads(self._threads):
            for index, (genome, known) in enumerate(zip(genomes, states, strict=True)):
                state = known or retrainer.start(genome)
                while state.epoch < retraining.last_epoch:
                    report, state = retrainer.epoch(genome, state)
                    on_epoch(index, report, state)
                reached.append(state)
        return reached

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        with torch_threads(self._threads):
            return [loss_of(self._problem, genome, examples, self._device) for genome in genomes]


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

    at_most: only so many of the team work, None: all.
    """

    def __init__(
        self,
        team: Team,
        problem: Problem,
        config: WorkersConfig,
        note: Note = lambda text: None,
        at_most: int | None = None,
    ):
        self._team = team
        self._at_most = at_most
        self._config = config
        self._set_aside = SetAside(problem, note)
        shared = team.share(problem)
        self._problem = shared
        self._prepare = lambda actor: actor.prepare.remote(shared)
        self._tickets = 0
        self._orders: dict[int, _Order] = {}
        self._conditions: tuple[Conditions, list[Any]] | None = None

    @property
    def count(self) -> int:
        return min(self._team.size, self._at_most or self._team.size)

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        self._team.work_on(self._prepare, self._at_most)
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
                job, result = self._team.take()
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
        self._team.give(
            Job(
                ask=lambda actor: actor.score.remote(self._problem, task.conditions, task.genomes),
                what=task,
                seconds=None if limit is None else limit * len(task.genomes),
                tries=tries,
            )
        )

    def _shared(self, conditions: Conditions) -> list[Any]:
        """A reference to conditions, which several calls in turn have alike."""
        if self._conditions is None or self._conditions[0] is not conditions:
            self._conditions = conditions, self._team.share(conditions)
        return self._conditions[1]

    def _forget(self) -> None:
        self._orders.clear()
        self._team.forget()

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        shared = self._team.share(retraining)
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
        shared = self._team.share(examples)
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
        self._team.work_on(self._prepare, self._at_most)
        given = [job for job in jobs if job is not None]
        for job in given:
            self._team.give(job)
        left = len(given)
        try:
            while left:
                job, result = self._team.take()
                if isinstance(result, Failure):
                    raise WorkerError(
                        f"{what} ends its worker {TRIES} times in turn ({result.reason}); see that machines have the "
                        "memory for it and the time (workers.epoch_timeout_s, workers.timeout_s)"
                    )
                following = done(job.what, result)
                if following is None:
                    left -= 1
                else:
                    self._team.give(following)
        except BaseException:
            self._forget()
            raise


def how_many(config: WorkersConfig, device: torch.device, cores: int, gpus: int) -> tuple[int, float]:
    """Workers, and each one's share of a GPU. Raises WorkerError where the cluster has too few."""
    if device.type == "cuda" and not gpus:
        raise WorkerError("device is cuda, but the Ray cluster has no GPU; set device to cpu or join another cluster")
    most = cores // config.threads
    if config.count != "auto" and config.count > most:
        raise WorkerError(
            f"workers.count must be at most {most} (the cluster's {cores} cores, {config.threads} threads a worker), "
            f"not {config.count}; lower it, or set it to auto"
        )
    if not most:
        raise WorkerError(f"workers.threads must be at most the cluster's {cores} cores, not {config.threads}")
    if device.type != "cuda":
        return (most if config.count == "auto" else config.count), 0.0
    count = min(gpus, most) if config.count == "auto" else config.count
    return count, 1 / -(-count // gpus)  # the same share for all, so that no worker lies across two GPUs


@contextmanager
def _ray_cluster(config: WorkersConfig) -> Iterator[Any]:
    """Ray, connected. What was started here is stopped at the end; a cluster that was joined goes on."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise WorkerError(
            "workers.backend is ray, but Ray is not installed; pip install ray, or set workers.backend to serial"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    if config.address is not None:
        check_answers(config.address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=config.address or "local", include_dashboard=False if config.address is None else None,
                 log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        if config.address is None:
            raise
        raise WorkerError(no_answer(config.address, str(error).splitlines()[0])) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
    try:
        yield ray
    finally:
        ray.shutdown()
