"""Fronts of feasible candidates, and measures of a whole generation: hypervolume and diversity."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from evoprune.search.pareto import non_dominated


@dataclass(frozen=True)
class Corner:
    """The worst point that a feasible candidate can have.

    Attributes:
        column: the column of the cost that the search minimises.
        cost: of the unpruned network, in the unit of the cost.
        mcr: of the baseline on the validation set, plus the tolerance (a fraction).
    """

    column: str
    cost: float
    mcr: float


def front(candidates: pd.DataFrame, column: str) -> pd.DataFrame:
    """The feasible candidates that no other one dominates in MCR and cost.

    Args:
        candidates: with the columns key, mcr, feasible and that of the cost.
        column: the column of the cost.

    Returns:
        Their rows, cheapest first; of equal ones, the earliest.
    """
    columns = [column, "mcr"]
    feasible = candidates[candidates["feasible"].fillna(False).to_numpy(dtype=bool)]
    found = feasible[non_dominated(feasible[columns].to_numpy(dtype=float))]
    return found.drop_duplicates(columns).sort_values(columns, kind="stable")


def hypervolume(candidates: pd.DataFrame, corner: Corner) -> float:
    """The hypervolume of the front: the share of the box from (0, 0) to the corner that it dominates, 0..1.

    References:
        Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms (PPSN 1998), with the corner as
        the reference point.
    """
    points = front(candidates, corner.column)
    # each point dominates a rectangle: up to the MCR of the corner, and to the right up to the cost of the next point
    edges = np.minimum([*points[corner.column], corner.cost], corner.cost)
    below = np.maximum(corner.mcr - points["mcr"].to_numpy(dtype=float), 0.0)
    return float((np.diff(edges) * below).sum() / (corner.cost * corner.mcr)) if len(points) and corner.mcr else 0.0


def hypervolumes(candidates: pd.DataFrame, corner: Corner) -> list[float]:
    """The hypervolume of all candidates up to the end of each generation, ascending."""
    found, volumes = candidates[:0], []
    for _, generation in candidates.groupby("generation"):
        found = front(pd.concat([found, generation]), corner.column)
        volumes.append(hypervolume(found, corner))
    return volumes


def diversity(genomes: pd.Series) -> float:
    """The share of genes in which two candidates differ, mean over all pairs, 0..1. genomes: bytes of one length."""
    if len(genomes) < 2:
        return 0.0
    matrix = np.frombuffer(b"".join(genomes), dtype=np.uint8).reshape(len(genomes), -1)
    if not matrix.shape[1]:
        return 0.0
    same = sum(((matrix == value).mean(axis=0) ** 2 for value in np.unique(matrix)), np.zeros(matrix.shape[1]))
    pairs = len(genomes) / (len(genomes) - 1)  # no candidate is paired with itself
    return float((1 - same).mean() * pairs)
