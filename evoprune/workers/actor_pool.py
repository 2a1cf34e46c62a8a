"""A fault-tolerant actor pool: jobs are retried when an actor dies or hangs.

Actors that die with their process or node are replaced, and more are started if the cluster grows. An actor gets its
first job only after it has started, so that no job waits for an actor that no node has room for.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from evoprune.errors import UserError, WorkerError, type_and_first_line
from evoprune.workers.ray_connection import LOOK_SECONDS, RayConnection

IN_FLIGHT = 2
"""Number of jobs that an actor has at a time, so that it never waits for the next one."""

RESIZE_SECONDS = 2.0
"""Interval at which the cluster is asked for its size."""

START_SECONDS = 300.0
"""Time that an actor has to start if jobs have a limit; then another one is started."""

FAILED_STARTS = 3
"""Number of failed starts in a row that ends the run."""

DEAD_STARTS_SECONDS = 60.0
"""Time over which starts in a row must fail to end the run if the actors died: until a cluster notices that a machine
has gone, which takes up to half a minute, it starts actors there."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """One call of an actor's method.

    Attributes:
        call: Calls the method of an actor, and returns the reference to its result.
        payload: The submitter's own value, by which it recognises the job.
        timeout_s: Seconds that the call may take; None: no limit.
        tries: Number of times that the job is started before it is given up.
        may_queue: Whether an actor may get the job while it is busy with another one.
        cancelled: Whether nobody waits for the result any more.
    """

    call: Callable[[Any], Any]
    payload: Any
    timeout_s: float | None
    tries: int
    may_queue: bool = True
    cancelled: bool = False


@dataclass(frozen=True)
class Failure:
    """The result of a job that was given up. reason: how its last try ended."""

    reason: str


@dataclass(eq=False)
class _PooledActor:
    """An actor and its calls, in the order of their execution.

    calls: references with their jobs; the job of the call that starts the actor is None.
    since: time at which the first call became the first one.
    """

    handle: Any
    since: float
    calls: deque[tuple[Any, Job | None]] = field(default_factory=deque)

    def finish_first(self) -> None:
        self.calls.popleft()
        self.since = time.monotonic()


class ActorPool:
    """Actors that execute jobs in parallel.

    Before the first job, `prepare_with` gives the call that every actor starts with.

    Args:
        connection: Ray, connected to a cluster.
        start_actor: Starts an actor without waiting, and returns its handle.
        target_size: Returns the number of actors that there should be now.
    """

    def __init__(self, connection: RayConnection, start_actor: Callable[[], Any], target_size: Callable[[], int]):
        self.connection = connection
        self._start_actor = start_actor
        self._target_size = target_size
        self._actors: list[_PooledActor] = []
        self._waiting: deque[Job] = deque()
        self._finished: deque[tuple[Job, Any]] = deque()
        self._prepare: Callable[[Any], Any] | None = None
        self._at_most: int | None = None
        self._failed_starts: list[float] = []  # times of the failed starts since the last actor that has started
        self._sized = (0, float("-inf"))  # the target size, and the time at which it was asked for

    @property
    def size(self) -> int:
        """The number of actors that there should be."""
        count, asked = self._sized
        if time.monotonic() - asked > RESIZE_SECONDS:
            self._sized = count, asked = max(1, self._target_size()), time.monotonic()
        return count

    @property
    def actors(self) -> list[Any]:
        """The handles of all present actors, started or not."""
        return [actor.handle for actor in self._actors]

    def put(self, value: Any) -> list[Any]:
        """Stores a value in the cluster, where each node fetches it once. Returns its reference, in a list."""
        return [self.connection.call(self.connection.ray.put, value)]

    def prepare_with(self, prepare: Callable[[Any], Any], at_most: int | None = None) -> None:
        """Sets the call that every actor starts with, and makes it on the present actors.

        Args:
            prepare: Calls a method of an actor, and returns the reference to its result.
            at_most: The number of actors that get jobs; None: all.
        """
        if prepare is self._prepare:
            return
        self._prepare, self._at_most = prepare, at_most
        for actor in self._actors[:at_most]:
            self._call(actor, None, prepare)

    def submit(self, job: Job) -> None:
        """Queues a job behind those submitted before, without waiting."""
        self._waiting.append(job)
        self._assign_jobs()

    def next_result(self) -> tuple[Job, Any]:
        """Waits for the next job that is finished or given up. Returns it with its result or a `Failure`.

        Raises:
            UserError: A job or the start of an actor raised it.
            WorkerError: No actor starts, or Ray fails.
        """
        while not self._finished:
            self._start_missing_actors()
            self._assign_jobs()
            for actor, result, error in self._finished_calls():
                self._take_in(actor, result, error)
            self._kill_overdue_actors()
        return self._finished.popleft()

    def cancel_all(self) -> None:
        """Cancels all jobs and drops all results. Calls that are being executed end, but their results are dropped."""
        self._waiting.clear()
        self._finished.clear()
        for actor in self._actors:
            for _, job in actor.calls:
                if job is not None:
                    job.cancelled = True

    def close(self) -> None:
        """Ends all actors, which frees their cores in a cluster that goes on. The next job would start others."""
        for actor in self._actors:
            self._kill(actor)
        self._actors.clear()
        self._failed_starts.clear()

    def _start_missing_actors(self) -> None:
        assert self._prepare is not None, "prepare_with comes first"
        for _ in range(self.size - len(self._actors)):
            actor = _PooledActor(self._start_actor(), time.monotonic())
            self._actors.append(actor)
            self._call(actor, None, self._prepare)

    def _assign_jobs(self) -> None:
        """Assigns waiting jobs, in their order, to started actors, idle ones first."""
        for load in range(IN_FLIGHT):
            for actor in self._actors[: self._at_most]:
                if not self._waiting or (load and not self._waiting[0].may_queue):
                    return
                if len(actor.calls) == load and all(job is not None for _, job in actor.calls):
                    job = self._waiting.popleft()
                    self._call(actor, job, job.call)

    def _call(self, actor: _PooledActor, job: Job | None, call: Callable[[Any], Any]) -> None:
        if not actor.calls:
            actor.since = time.monotonic()
        actor.calls.append((self.connection.call(call, actor.handle), job))

    def _finished_calls(self) -> list[tuple[_PooledActor, Any, Exception | None]]:
        """Actors whose first call has ended, each with its result or exception; waits a moment if there is none."""
        first = {actor.calls[0][0]: actor for actor in self._actors if actor.calls}
        if not first:
            time.sleep(LOOK_SECONDS)
            return []
        ended = self.connection.call(self._results_of, list(first))
        return [(first[reference], result, error) for reference, result, error in ended]

    def _results_of(self, references: list[Any]) -> list[tuple[Any, Any, Exception | None]]:
        """Those of the references that have a result or an exception. Runs in the connection's thread."""
        ray = self.connection.ray
        ended, _ = ray.wait(references, num_returns=len(references), timeout=0)
        if not ended:
            ended, _ = ray.wait(references, timeout=LOOK_SECONDS)
        return [(reference, *self._result_of(reference)) for reference in ended]

    def _result_of(self, reference: Any) -> tuple[Any, Exception | None]:
        try:
            return self.connection.ray.get(reference), None
        except self.connection.ray.exceptions.RayError as error:
            return None, error

    def _take_in(self, actor: _PooledActor, result: Any, error: Any) -> None:
        """Handles the end of an actor's first call."""
        _, job = actor.calls[0]
        if error is None:
            actor.finish_first()
            self._failed_starts.clear()
            if job is not None and not job.cancelled:
                self._finished.append((job, result))
        elif isinstance(error, self.connection.ray.exceptions.RayTaskError):
            self._take_in_exception(actor, job, error.cause)
        else:
            reason, raised = self._in_words(error), _raised_in_constructor(error)
            self._remove(actor, reason)
            if job is None:
                self._note_failed_start(reason, 0.0 if raised else DEAD_STARTS_SECONDS)

    def _take_in_exception(self, actor: _PooledActor, job: Job | None, cause: Exception) -> None:
        """Handles a call that raised an exception. UserErrors are passed on."""
        if job is None:
            self._kill(actor)
            self._remove(actor, type_and_first_line(cause))
            self._note_failed_start(type_and_first_line(cause), over_seconds=0.0)
        else:
            actor.finish_first()
            self._retry_or_give_up(job, type_and_first_line(cause))
        if isinstance(cause, UserError) and not (job and job.cancelled):
            raise type(cause)(*cause.args) from None

    def _kill_overdue_actors(self) -> None:
        limited = any(job is not None and job.timeout_s is not None for job in self._jobs())
        for actor in list(self._actors):
            if not actor.calls:
                continue
            _, job = actor.calls[0]
            limit = job.timeout_s if job is not None else START_SECONDS if limited else None
            if limit is not None and time.monotonic() - actor.since > limit:
                self._kill(actor)
                self._remove(actor, f"it took longer than {limit:g} seconds")

    def _jobs(self) -> Iterator[Job | None]:
        yield from self._waiting
        for actor in self._actors:
            yield from (job for _, job in actor.calls)

    def _kill(self, actor: _PooledActor) -> None:
        self.connection.call(self.connection.ray.kill, actor.handle)

    def _remove(self, actor: _PooledActor, reason: str) -> None:
        """Removes a dead actor. Its first job has used up a try; those that it had not started have not."""
        self._actors.remove(actor)
        jobs = [job for _, job in actor.calls]
        for job in reversed(jobs[1:]):
            if job is not None and not job.cancelled:
                self._waiting.appendleft(job)
        if jobs and jobs[0] is not None:
            _log.warning("a worker is lost (%s): its work is done again", reason)
            self._retry_or_give_up(jobs[0], reason)

    def _note_failed_start(self, reason: str, over_seconds: float) -> None:
        """Raises WorkerError if the last `FAILED_STARTS` starts failed, over at least this time."""
        times = self._failed_starts
        times.append(time.monotonic())
        if len(times) >= FAILED_STARTS and times[-1] - times[0] >= over_seconds:
            self.close()
            raise WorkerError(
                f"workers end before they have started ({reason}); see that their machines have the memory and "
                "the same Python environment, or set workers.backend to serial to see what is wrong"
            )
        time.sleep(LOOK_SECONDS)

    def _retry_or_give_up(self, job: Job, reason: str) -> None:
        job.tries -= 1
        if job.cancelled:
            return
        if job.tries > 0:
            self._waiting.appendleft(job)
        else:
            self._finished.append((job, Failure(reason)))

    def _in_words(self, error: Exception) -> str:
        exceptions = self.connection.ray.exceptions
        if isinstance(error, exceptions.OutOfMemoryError):
            return "its machine ran out of memory"
        if _raised_in_constructor(error):
            return str(error).strip().splitlines()[-1]  # of the traceback that Ray passes on
        if isinstance(error, exceptions.RayActorError):
            return "its process or its machine ended"
        return type(error).__name__


def _raised_in_constructor(error: Exception) -> bool:
    """Whether an actor's constructor raised, which it would do again. Only Ray's message says so."""
    return "error raised in its creation task" in str(error)
