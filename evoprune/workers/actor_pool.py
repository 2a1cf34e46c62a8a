"""Actors that come and go, and jobs that are done all the same: tried again when an actor dies or hangs.

Actors die with their process or node, and are replaced; where a cluster grows, more of them are started. A job is not
handed to an actor before that one has come up, so that nothing waits for a place that no node has.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from evoprune.errors import UserError, WorkerError, type_and_first_line
from evoprune.workers.failures import Note

IN_FLIGHT = 2
"""Jobs that an actor has at a time: the next one is there when one is done."""

LOOK_SECONDS = 0.25
"""How long to wait for results before looking at the clock, at the cluster's size and for signals."""

RECOUNT_SECONDS = 2.0
"""How often the cluster is asked how large it is."""

PREPARE_SECONDS = 300.0
"""How long an actor may take to come up where jobs have a limit; then another one is tried."""

STILLBORN = 3
"""So many actors in turn that fail or die before they have come up end the run."""

GONE_SECONDS = 60.0
"""Deaths before they come up end the run where they go on for so long: a cluster takes up to half a minute to find out
that a machine has gone, and starts actors there until then."""


@dataclass(eq=False)
class Job:
    """What one actor does in one call.

    ask: makes the call and returns its reference. what: known to whoever gave the job. seconds: how long it may take,
    None: as long as it likes. tries: how often it is begun before it is given up.
    queued: an actor may have it in its queue while it is at another one.
    """

    ask: Callable[[Any], Any]
    what: Any
    seconds: float | None
    tries: int
    queued: bool = True
    dropped: bool = False


@dataclass(frozen=True)
class Failure:
    """A job that was given up, and what ended its last try."""

    reason: str


@dataclass(eq=False)
class _Member:
    """An actor. calls: references and jobs in the order in which it does them. since: when it began with the first."""

    actor: Any
    since: float
    calls: deque[tuple[Any, Job | None]] = field(default_factory=deque)  # no job: it comes up


class ActorPool:
    """As many actors as there should be at any time, and the jobs that they do.

    ray: the module, connected. enlist: starts an actor. wanted: how many there should be now. note: told of losses.
    """

    def __init__(self, ray: Any, enlist: Callable[[], Any], wanted: Callable[[], int], note: Note):
        self.ray = ray
        self._enlist = enlist
        self._wanted = wanted
        self._note = note
        self._members: list[_Member] = []
        self._waiting: deque[Job] = deque()
        self._ended: deque[tuple[Job, Any]] = deque()
        self._prepare: Callable[[Any], Any] | None = None
        self._at_most: int | None = None
        self._stillborn: list[float] = []  # when the last ones, in turn, died before they had come up
        self._counted = (0, float("-inf"))  # how many are wanted, and when that was asked

    @property
    def size(self) -> int:
        """How many actors there should be."""
        count, asked = self._counted
        if time.monotonic() - asked > RECOUNT_SECONDS:
            self._counted = count, asked = max(1, self._wanted()), time.monotonic()
        return count

    @property
    def actors(self) -> list[Any]:
        """Those that there are, come up or not."""
        return [member.actor for member in self._members]

    def share(self, value: Any) -> list[Any]:
        """A reference that travels in the place of a value, which each node then fetches once."""
        return [self.ray.put(value)]

    def work_on(self, prepare: Callable[[Any], Any], at_most: int | None = None) -> None:
        """From now on, actors come up by this call; those that there are make it once more. at_most: of so many."""
        if prepare is self._prepare:
            return
        self._prepare, self._at_most = prepare, at_most
        for member in self._members[:at_most]:
            self._call(member, None, prepare)

    def give(self, job: Job) -> None:
        """Hands a job over, to be done after those before it; does not wait."""
        self._waiting.append(job)
        self._hand_out()

    def take(self) -> tuple[Job, Any]:
        """The next job that is done or given up, with its result or a Failure; waits for it.

        Raises UserErrors that a job or the start of an actor ended with, and WorkerError where no actor comes up.
        """
        while not self._ended:
            self._recruit()
            self._hand_out()
            for member in self._that_answered():
                self._hear(member)
            self._lose_late_ones()
        return self._ended.popleft()

    def forget(self) -> None:
        """Whatever was handed over is nobody's any more."""
        self._waiting.clear()
        self._ended.clear()
        for member in self._members:
            for _, job in member.calls:
                if job is not None:
                    job.dropped = True

    def _recruit(self) -> None:
        assert self._prepare is not None, "work_on comes first"
        for _ in range(self.size - len(self._members)):
            member = _Member(self._enlist(), time.monotonic())
            self._members.append(member)
            self._call(member, None, self._prepare)

    def _hand_out(self) -> None:
        """Gives what waits, in its order, to actors that have come up, the idle ones first."""
        for load in range(IN_FLIGHT):
            for member in self._members[: self._at_most]:
                if not self._waiting or (load and not self._waiting[0].queued):
                    return
                if len(member.calls) == load and all(job is not None for _, job in member.calls):
                    job = self._waiting.popleft()
                    self._call(member, job, job.ask)

    def _call(self, member: _Member, job: Job | None, ask: Callable[[Any], Any]) -> None:
        if not member.calls:
            member.since = time.monotonic()
        member.calls.append((ask(member.actor), job))

    def _that_answered(self) -> Iterator[_Member]:
        """Those whose first call has ended, one way or the other; waits a moment where there is none."""
        first = {member.calls[0][0]: member for member in self._members if member.calls}
        references = list(first)
        if not references:
            time.sleep(LOOK_SECONDS)
            return
        ended, _ = self.ray.wait(references, num_returns=len(references), timeout=0)
        if not ended:
            ended, _ = self.ray.wait(references, timeout=LOOK_SECONDS)
        yield from [first[reference] for reference in ended]

    def _hear(self, member: _Member) -> None:
        """Takes in how a member's first call ended."""
        reference, job = member.calls[0]
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if job is None:
                self.ray.kill(member.actor)
                self._lose(member, type_and_first_line(error.cause))
                self._born_still(type_and_first_line(error.cause), patience_seconds=0.0)
            else:
                self._next(member)
                self._tried(job, type_and_first_line(error.cause))
            if isinstance(error.cause, UserError) and not (job and job.dropped):
                raise type(error.cause)(*error.cause.args) from None
            return
        except self.ray.exceptions.RayError as error:
            reason, failed = _in_words(error, self.ray), _failed_to_start(error)
            self._lose(member, reason)
            if job is None:
                self._born_still(reason, 0.0 if failed else GONE_SECONDS)
            return
        self._next(member)
        self._stillborn.clear()
        if job is not None and not job.dropped:
            self._ended.append((job, result))

    def _next(self, member: _Member) -> None:
        member.calls.popleft()
        member.since = time.monotonic()

    def _lose_late_ones(self) -> None:
        limited = any(job is not None and job.seconds is not None for job in self._jobs())
        for member in list(self._members):
            if not member.calls:
                continue
            _, job = member.calls[0]
            limit = job.seconds if job is not None else PREPARE_SECONDS if limited else None
            if limit is not None and time.monotonic() - member.since > limit:
                self.ray.kill(member.actor)
                self._lose(member, f"it took longer than {limit:g} seconds")

    def _jobs(self) -> Iterator[Job | None]:
        yield from self._waiting
        for member in self._members:
            yield from (job for _, job in member.calls)

    def _lose(self, member: _Member, reason: str) -> None:
        """A member is gone. What it was at has been tried; what was still in its queue has not."""
        self._members.remove(member)
        jobs = [job for _, job in member.calls]
        for job in reversed(jobs[1:]):
            if job is not None and not job.dropped:
                self._waiting.appendleft(job)
        if jobs and jobs[0] is not None:
            self._note(f"a worker is lost ({reason}): what it was at is done again")
            self._tried(jobs[0], reason)

    def _born_still(self, reason: str, patience_seconds: float) -> None:
        """An actor failed or died before it had come up. Raises WorkerError where that is what they all do."""
        self._stillborn.append(time.monotonic())
        if len(self._stillborn) >= STILLBORN and self._stillborn[-1] - self._stillborn[0] >= patience_seconds:
            self._dismiss()
            raise WorkerError(
                f"workers end before they have come up ({reason}); see that their machines have the memory and "
                "the same Python environment, or set workers.backend to serial to see what is wrong"
            )
        time.sleep(LOOK_SECONDS)

    def _dismiss(self) -> None:
        """Ends all actors; whatever comes next begins with others."""
        for member in self._members:
            self.ray.kill(member.actor)
        self._members.clear()
        self._stillborn.clear()

    def _tried(self, job: Job, reason: str) -> None:
        job.tries -= 1
        if job.dropped:
            return
        if job.tries > 0:
            self._waiting.appendleft(job)
        else:
            self._ended.append((job, Failure(reason)))


def _in_words(error: Exception, ray: Any) -> str:
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its machine ran out of memory"
    if _failed_to_start(error):
        return str(error).strip().splitlines()[-1]  # of the traceback that Ray passes on
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process or its machine ended"
    return type(error).__name__


def _failed_to_start(error: Exception) -> bool:
    """Whether an actor's own start raised, which its machine will do again; Ray says so in the message alone."""
    return "error raised in its creation task" in str(error)
