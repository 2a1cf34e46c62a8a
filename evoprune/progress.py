"""The protocol by which a run reports its progress. Warnings are logged instead, on the logger `evoprune`."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True)
class GenerationSummary:
    """A completely scored generation.

    Attributes:
        generation: Its number; 0 is the first population.
        generations: The number of the last generation.
        evaluated: Number of candidates that were scored in it.
        cached: Number of candidates that were known before.
        feasible: Number of feasible candidates.
        candidates: Number of candidates.
        best_cost: Lowest cost of a feasible candidate so far; None without one.
        full_cost: Cost of the baseline.
        cost_name: Name of the cost, such as macs.
        best_mcr: MCR of the candidate with the lowest cost, a fraction.
        evaluations_per_second: Number of candidates scored per second.
        seconds_left: Estimate of the remaining time of the search; None without one.
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
    """Receives the progress of a run."""

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins: data, space, round, baseline, search, retrain, test, report, done."""

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """A network (`what`) has been trained for `epoch` of `epochs` epochs."""

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """`done` of the `total` candidates of a generation are scored."""

    def generation(self, summary: GenerationSummary) -> None:
        """A generation is complete."""


class SilentProgress:
    """Ignores progress."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stage(self, name: str, detail: str = "") -> None:
        """Does nothing."""

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        """Does nothing."""

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        """Does nothing."""

    def generation(self, summary: GenerationSummary) -> None:
        """Does nothing."""


def describe(summary: GenerationSummary) -> str:
    """One line with the feasible share, the best cost as a share of the baseline's, the speed and the time left."""
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
    """A duration for people: 8 s; 1 min 05 s; 2 h 10 min."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole_seconds:02d} s" if minutes else f"{whole_seconds} s"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 survivor`, `2 survivors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
