"""Who scores and retrains: this process alone, or Ray actors, one a core or a share of a GPU each.

Both give the same answers in the same order: results are put by the index of what was asked for, never by arrival.
"""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from evoprune.config import WorkersConfig
from evoprune.errors import UserError, WorkerError
from evoprune.fitness.candidate import Outcome
from evoprune.fitness.cluster import check_answers, no_answer
from evoprune.fitness.conditions import Conditions
from evoprune.fitness.losses import Examples, loss_of
from evoprune.fitness.retraining import Retrainer, Retraining
from evoprune.fitness.scoring import Problem
from evoprune.nets.threads import torch_threads
from evoprune.nets.training import EpochReport, FitState
from evoprune.space.plan import Genome

OnScore = Callable[[int], None]
"""Told how many candidates are scored by now."""

OnEpoch = Callable[[int, EpochReport, FitState], None]
"""Told a network's index, what its epoch was like, and the state after it."""

IN_FLIGHT = 2
"""Tasks that an actor has at a time: the next one is there when one is done."""

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
def open_crew(config: WorkersConfig, device: torch.device) -> Iterator[Crew]:
    """What the config asks for, for as long as the context lasts.

    Raises WorkerError where no cluster answers, or it has fewer cores or GPUs than asked for.
    """
    if config.backend == "serial":
        yield SerialCrew(device, config.threads)
        return
    with _ray_cluster(config) as ray:
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        count, gpu_share = how_many(config, device, cores, gpus)
        yield RayCrew(ray, config.threads, device, count, gpu_share)


@dataclass(frozen=True)
class SerialCrew:
    """This process alone, with as many threads as one worker has elsewhere: sums come out the same."""

    device: torch.device
    threads: int

    def workers(self, problem: Problem) -> Workers:
        return SerialWorkers(problem, self.device, self.threads)


@dataclass(frozen=True)
class RayCrew:
    """A Ray cluster: `count` actors of `threads` cores and `gpu_share` of a GPU each."""

    ray: Any
    threads: int
    device: torch.device
    count: int
    gpu_share: float

    def workers(self, problem: Problem) -> Workers:
        return RayWorkers(self.ray, self.actors(self.count), problem)

    def actors(self, count: int) -> list[Any]:
        """So many actors, that hold no problem yet."""
        actor = self.ray.remote(_Actor).options(
            num_cpus=self.threads, num_gpus=self.gpu_share, max_restarts=-1, max_task_retries=3
        )
        return [actor.remote(_import_paths(), self.threads, self.device.type) for _ in range(count)]


class SerialWorkers:
    """This process alone."""

    count = 1

    def __init__(self, problem: Problem, device: torch.device, threads: int):
        self._problem = problem
        self._device = device
        self._threads = threads
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
                outcomes.append(self._scorer.score(genome))
                on_score(len(outcomes))
        return outcomes

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
    """Ray actors that hold network and data once; candidates travel as bytes."""

    def __init__(self, ray: Any, actors: Sequence[Any], problem: Problem):
        self._ray = ray
        self._actors = actors
        # Sent as a reference inside a list, with every call: an actor fetches it once, after a restart once more.
        self._problem = [ray.put(problem)]
        self.count = len(actors)
        self._tickets = 0
        self._orders: dict[int, _Order] = {}
        self._waiting: deque[_Task] = deque()
        self._running: dict[Any, tuple[Any, _Task]] = {}
        self._idle: deque[Any] = deque(actor for _ in range(IN_FLIGHT) for actor in actors)
        self._conditions: tuple[Conditions, Any] | None = None

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        ticket, self._tickets = self._tickets, self._tickets + 1
        shared = [self._shared(conditions)]
        chunk = max(1, min(16, len(genomes) // (CHUNKS * self.count)))
        self._orders[ticket] = _Order(len(genomes))
        for start in range(0, len(genomes), chunk):
            data = [genome.tobytes() for genome in genomes[start : start + chunk]]
            self._waiting.append(_Task(ticket, start, shared, data))
        self._hand_out()
        return ticket

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        order = self._orders[ticket]
        try:
            while len(order.outcomes) < order.count:
                done, _ = self._ray.wait(list(self._running))
                for reference in done:
                    actor, task = self._running.pop(reference)
                    self._idle.append(actor)
                    self._hand_out()
                    belongs = self._orders[task.ticket]
                    belongs.outcomes.update(enumerate(self._result(reference), task.start))
                    if belongs is order:
                        on_score(len(order.outcomes))
        except BaseException:  # whatever ends this ends what was handed over: the next one starts afresh
            self._forget()
            raise
        del self._orders[ticket]
        return [order.outcomes[index] for index in range(order.count)]

    def _hand_out(self) -> None:
        """Gives idle actors what waits, in its order."""
        while self._waiting and self._idle:
            actor, task = self._idle.popleft(), self._waiting.popleft()
            self._running[actor.score.remote(self._problem, task.conditions, task.genomes)] = (actor, task)

    def _shared(self, conditions: Conditions) -> Any:
        """A reference to conditions, which several calls in turn have alike."""
        if self._conditions is None or self._conditions[0] is not conditions:
            self._conditions = conditions, self._ray.put(conditions)
        return self._conditions[1]

    def _forget(self) -> None:
        self._waiting.clear()
        self._orders.clear()
        self._running.clear()
        self._idle = deque(actor for _ in range(IN_FLIGHT) for actor in self._actors)

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        shared = [self._ray.put(retraining)]
        reached = dict(enumerate(states))

        def ask(actor: Any, index: int) -> Any:
            return actor.epoch.remote(self._problem, shared, genomes[index].tobytes(), reached[index])

        left = [index for index, state in reached.items() if state is None or state.epoch < retraining.last_epoch]
        while left:
            for index, (report, state) in self._spread(left, ask, in_flight=1):
                reached[index] = state
                if report is not None:
                    on_epoch(index, report, state)
            left = [index for index in left if reached[index].epoch < retraining.last_epoch]  # type: ignore[union-attr]
        return [state for state in reached.values() if state is not None]

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        shared = [self._ray.put(examples)]

        def ask(actor: Any, index: int) -> Any:
            return actor.loss.remote(self._problem, shared, genomes[index].tobytes())

        found = dict(self._spread(range(len(genomes)), ask, in_flight=IN_FLIGHT))
        return [found[index] for index in range(len(genomes))]

    def _spread(
        self, tasks: Sequence[Any], ask: Callable[[Any, Any], Any], in_flight: int
    ) -> Iterator[tuple[Any, Any]]:
        """Gives every actor up to `in_flight` tasks at a time. Yields (task, result) as they arrive."""
        waiting = list(reversed(tasks))
        running: dict[Any, tuple[Any, Any]] = {}
        idle = [actor for _ in range(in_flight) for actor in self._actors]
        while waiting or running:
            while waiting and idle:
                actor, task = idle.pop(0), waiting.pop()
                running[ask(actor, task)] = (actor, task)
            done, _ = self._ray.wait(list(running))
            for reference in done:
                actor, task = running.pop(reference)
                idle.append(actor)
                yield task, self._result(reference)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise type(error.cause)(*error.cause.args) from None
            raise


class _Actor:
    """One worker, as Ray runs it. What it works on comes as references, and is fetched when it is another one."""

    def __init__(self, import_paths: list[str], threads: int, device: str):
        sys.path[:] = [*(path for path in import_paths if path not in sys.path), *sys.path]
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._held: dict[str, tuple[Any, Any]] = {}  # what for -> (reference, what was made of it)

    def score(self, problem: list[Any], conditions: list[Any], genomes: list[bytes]) -> list[Outcome]:
        scorer = self._hold("scorer", problem, lambda: self._fetch("problem", problem).scorer(self._device))
        self._hold("conditions", problem + conditions, lambda: scorer.under(self._fetch("terms", conditions)))
        return [scorer.score(_genome(data)) for data in genomes]

    def epoch(
        self, problem: list[Any], retraining: list[Any], genome: bytes, state: FitState | None
    ) -> tuple[EpochReport | None, FitState]:
        """One epoch; without a state, only the start."""
        retrainer = self._hold(
            "retrainer",
            problem + retraining,
            lambda: Retrainer(self._fetch("problem", problem), self._fetch("retraining", retraining), self._device),
        )
        if state is None:
            return None, retrainer.start(_genome(genome))
        return retrainer.epoch(_genome(genome), state)

    def loss(self, problem: list[Any], examples: list[Any], genome: bytes) -> float:
        return loss_of(
            self._fetch("problem", problem), _genome(genome), self._fetch("examples", examples), self._device
        )

    def _fetch(self, name: str, reference: list[Any]) -> Any:
        import ray

        return self._hold(name, reference, lambda: ray.get(reference[0]))

    def _hold(self, name: str, references: list[Any], make: Callable[[], Any]) -> Any:
        if name not in self._held or self._held[name][0] != references:
            self._held[name] = (references, make())
        return self._held[name][1]


def _genome(data: bytes) -> Genome:
    return np.frombuffer(data, dtype=np.uint8)


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
    try:
        ray.init(address=config.address or "local", include_dashboard=False if config.address is None else None,
                 log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError) as error:
        if config.address is None:
            raise
        raise WorkerError(no_answer(config.address, str(error).splitlines()[0])) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_paths() -> list[str]:
    """Where this process finds modules, so that actors find the user's own."""
    return [os.getcwd(), *(path for path in sys.path if path)]
