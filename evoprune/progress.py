"""The protocol by which a run reports its progress."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class GenerationSummary:
    """A generation, once all of it is scored.

    generation: 0 is the first population; generations: the last one's number.
    evaluated, cached: candidates scored now, and known from before. feasible: of `candidates`.
    best_cost: least cost of a feasible candidate, None without one; full_cost: the baseline's.
    best_mcr: that candidate's MCR, a fraction. seconds_left: None while it cannot be told.
    """

    generation: int
    generations: int
    evaluated: int
    cached: int
    feasible: int
    candidates: int
    best_cost: float | None
    full_cost: float
    cost_name: str
    best_mcr: float | None
    evaluations_per_second: float
    seconds_left: float | None


class Progress(Protocol):
    """Whom the pipeline tells how far it is."""

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins: data, space, baseline, search, retrain, test, report, done."""

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """`what` has been trained for `epoch` of `epochs` epochs."""

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """`done` of a generation's `total` candidates are scored."""

    def generation(self, summary: GenerationSummary) -> None:
        """A generation is complete."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stage(self, name: str, detail: str = "") -> None:
        pass

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        pass

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        pass

    def generation(self, summary: GenerationSummary) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def describe(summary: GenerationSummary) -> str:
    """Feasible share, best feasible cost as a share of the baseline's, speed and time left, in one line."""
    feasible = f"{summary.feasible / max(summary.candidates, 1):.0%} feasible"
    best = "none feasible yet"
    if summary.best_cost is not None:
        best = f"best {summary.cost_name} {summary.best_cost / (summary.full_cost or 1):.1%} of the baseline"
        if summary.best_mcr is not None:
            best += f" at MCR {summary.best_mcr:.2%}"
    parts = [feasible, best, f"{summary.evaluations_per_second:.1f} evaluations/s"]
    if summary.seconds_left is not None:
        parts.append(f"{duration(summary.seconds_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """8 s; 1 min 05 s; 2 h 10 min."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole_seconds:02d} s" if minutes else f"{whole_seconds} s"
