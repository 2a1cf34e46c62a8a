"""The Pareto front of points whose coordinates are minimised."""

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Finds the points that no other point dominates.

    A point dominates another one if it is as low in both coordinates and lower in at least one; equal points do not
    dominate each other. Sorts once, so that n points take O(n log n).

    Args:
        points: float (n, 2), both coordinates minimised.

    Returns:
        bool (n,).

    References:
        Kung, Luccio and Preparata 1975 (the maxima of a set of vectors).
    """
    order = np.lexsort((points[:, 1], points[:, 0]))
    first, second = points[order].T
    lowest_so_far = np.minimum.accumulate(second)
    lowest_before = np.concatenate([[np.inf], lowest_so_far[:-1]])
    equals_one_before = np.zeros(len(points), dtype=bool)
    equals_one_before[1:] = (first[1:] == first[:-1]) & (second[1:] == second[:-1])
    on_front = second < lowest_before
    # Equal points follow each other, so each one has the verdict of the first of them.
    firsts = np.maximum.accumulate(np.where(equals_one_before, 0, np.arange(len(points))))
    result = np.zeros(len(points), dtype=bool)
    result[order] = on_front[firsts]
    return result
