"""Fronts of feasible candidates, and what a generation is worth as a whole: hypervolume and diversity."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from evoprune.config.choices import CostName
from evoprune.record.costs import cost_column
from evoprune.search.pareto import non_dominated


@dataclass(frozen=True)
class Corner:
    """The worst point that a feasible candidate can be at: the unpruned network's cost, and the highest MCR allowed.

    name: which cost. cost: in its unit. mcr: the baseline's on the validation set, plus the tolerance (a fraction).
    """

    name: CostName
    cost: float
    mcr: float


def front(candidates: pd.DataFrame, cost: CostName) -> pd.DataFrame:
    """The feasible candidates that no other one beats in MCR and cost, cheapest first; of equal ones, the earliest.

    candidates: with the columns key, mcr, feasible and the cost's.
    """
    columns = [cost_column(cost), "mcr"]
    feasible = candidates[candidates["feasible"].fillna(False).to_numpy(dtype=bool)]
    found = feasible[non_dominated(feasible[columns].to_numpy(dtype=float))]
    return found.drop_duplicates(columns).sort_values(columns, kind="stable")


def hypervolume(candidates: pd.DataFrame, corner: Corner) -> float:
    """The share of the box between nothing (no cost, no errors) and the corner that the front leaves behind it, 0..1.

    Zitzler and Thiele 1998, with the corner as the reference point.
    """
    points = front(candidates, corner.name)
    # each point leaves behind it what reaches up to the corner's MCR and right up to the next point's cost
    edges = np.minimum([*points[cost_column(corner.name)], corner.cost], corner.cost)
    below = np.maximum(corner.mcr - points["mcr"].to_numpy(dtype=float), 0.0)
    return float((np.diff(edges) * below).sum() / (corner.cost * corner.mcr)) if len(points) and corner.mcr else 0.0


def hypervolumes(candidates: pd.DataFrame, corner: Corner) -> list[float]:
    """The hypervolume of all candidates up to the end of each generation, ascending."""
    found, volumes = candidates[:0], []
    for _, generation in candidates.groupby("generation"):
        found = front(pd.concat([found, generation]), corner.name)
        volumes.append(hypervolume(found, corner))
    return volumes


def diversity(genomes: pd.Series) -> float:
    """In what share of genes two candidates differ on average, over all pairs, 0..1. genomes: bytes of one length."""
    if len(genomes) < 2:
        return 0.0
    matrix = np.frombuffer(b"".join(genomes), dtype=np.uint8).reshape(len(genomes), -1)
    if not matrix.shape[1]:
        return 0.0
    same = sum(((matrix == value).mean(axis=0) ** 2 for value in np.unique(matrix)), np.zeros(matrix.shape[1]))
    pairs = len(genomes) / (len(genomes) - 1)  # nobody is paired with itself
    return float((1 - same).mean() * pairs)
