"""The choice of candidates on the front that are retrained."""

from collections.abc import Sequence

import numpy as np

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective


def choose_survivors(front: Sequence[Candidate], count: int, objective: Objective) -> list[Candidate]:
    """Up to `count` different candidates of a front: the cheapest, the knee, the most accurate, then between them.

    With targets, the best candidate of each target comes first, and there is at least one for each. The knee is the
    candidate farthest from the line between the two ends, with both objectives scaled to 0..1. Of candidates alike in
    both objectives, all but the first come last.

    Args:
        front: cheapest first.
        count: number of survivors.
        objective: by which candidates are compared, and the targets.
    """
    points = [(objective.floored_cost(candidate), objective.fitness_of(candidate)) for candidate in front]
    first_of_each = [index for index, point in enumerate(points) if index == points.index(point)]
    if len(first_of_each) <= count:
        others = [index for index in range(len(front)) if index not in first_of_each]
        return [front[index] for index in sorted(first_of_each + others[: count - len(first_of_each)])]
    front, points = [front[index] for index in first_of_each], [points[index] for index in first_of_each]
    chosen = [0, *(_best_within(front, target, objective) for target in objective.targets)]
    if count > len(chosen):
        chosen.append(_knee(np.array(points, dtype=float)))
    if count > len(chosen):
        chosen.append(len(front) - 1)
    chosen = list(dict.fromkeys(chosen))
    while len(chosen) < count:  # Add the middle of the largest gap.
        ordered = sorted(chosen)
        gaps = [(b - a, a) for a, b in zip(ordered, [*ordered[1:], len(front)], strict=True) if b - a > 1]
        gap, start = max(gaps, key=lambda gap: gap[0])
        chosen.append(start + gap // 2)
    return [front[index] for index in sorted(chosen)]


def _best_within(front: Sequence[Candidate], target: float, objective: Objective) -> int:
    """Index of the most accurate candidate that costs no more than the target; of the cheapest if none does."""
    within = [index for index, candidate in enumerate(front) if objective.cost_of(candidate) <= target]
    return min(within, key=lambda index: objective.fitness_of(front[index]), default=0)


def _knee(points: np.ndarray) -> int:
    """Index of the point below the line between the ends that is farthest from it. points: (n, 2), sorted."""
    scaled = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), 1e-12)
    below = 1 - scaled.sum(1)  # The ends lie on x + y = 1.
    return int(below[1:-1].argmax()) + 1 if len(points) > 2 else 0
