"""How much is left after each step of pruning in several steps, with training in between."""

from typing import Literal

Schedule = Literal["one_shot", "linear", "exponential", "cubic"]


def kept_fractions(schedule: Schedule, steps: int, final: float) -> tuple[float, ...]:
    """The share that stays after each of `steps` steps of a schedule, by name; the last is `final` (0..1)."""
    return {"one_shot": one_shot, "linear": linear, "exponential": exponential, "cubic": cubic}[schedule](steps, final)


def one_shot(steps: int, final: float) -> tuple[float, ...]:
    """Everything at the first step; what follows only trains on."""
    return (final,) * steps


def linear(steps: int, final: float) -> tuple[float, ...]:
    """The same amount at every step."""
    return (*(1 - (1 - final) * step / steps for step in range(1, steps)), final)


def exponential(steps: int, final: float) -> tuple[float, ...]:
    """The same share of what is left at every step.

    Iterative pruning as of Han et al. 2015; Tanaka et al. 2020, algorithm 1, line 5: final^(step / steps).
    """
    return (*(final ** (step / steps) for step in range(1, steps)), final)


def cubic(steps: int, final: float) -> tuple[float, ...]:
    """Much at first, when much is redundant, and less and less: sparsity s_t = s_f + (s_i - s_f) (1 - t / n)^3.

    Zhu and Gupta 2017, eq. 1, from s_i = 0 and t_0 = 0.
    """
    sparsity = 1 - final
    return (*(1 - sparsity * (1 - (1 - step / steps) ** 3) for step in range(1, steps)), final)
