"""Pruning schedules: the share that is left after each of several steps of pruning, with training in between."""

from typing import Literal

Schedule = Literal["one_shot", "linear", "exponential", "cubic"]


def kept_fractions(schedule: Schedule, steps: int, final: float) -> tuple[float, ...]:
    """The shares that are left after each step of a schedule.

    Args:
        schedule: Its name.
        steps: Number of steps.
        final: The share after the last step, a fraction.
    """
    return {"one_shot": one_shot, "linear": linear, "exponential": exponential, "cubic": cubic}[schedule](steps, final)


def one_shot(steps: int, final: float) -> tuple[float, ...]:
    """All of the pruning in the first step; later steps only train."""
    return (final,) * steps


def linear(steps: int, final: float) -> tuple[float, ...]:
    """The same amount in every step."""
    return (*(1 - (1 - final) * step / steps for step in range(1, steps)), final)


def exponential(steps: int, final: float) -> tuple[float, ...]:
    """The same share of what is left in every step: final^(step / steps).

    References:
        Han et al. 2015 (iterative pruning); Tanaka et al. 2020, algorithm 1, line 5.
    """
    return (*(final ** (step / steps) for step in range(1, steps)), final)


def cubic(steps: int, final: float) -> tuple[float, ...]:
    """Large steps first, while much is redundant, then smaller ones: sparsity s_t = s_f + (s_i - s_f) (1 - t / n)^3.

    References:
        Zhu and Gupta 2017, eq. 1, with s_i = 0 and t_0 = 0.
    """
    sparsity = 1 - final
    return (*(1 - sparsity * (1 - (1 - step / steps) ** 3) for step in range(1, steps)), final)
