"""What the scores of a generation depend on besides the genomes. It is fixed when the generation starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evoprune.config.choices import FitnessName
from evoprune.scoring.candidate import Outcome

MEMORY = 0.5
"""Weight of an image's record so far when a generation updates it; the generation itself has the rest."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """The order of images, and the fitness above which a candidate is dominated by the front so far.

    Attributes:
        order: int64 (images,), the order in which validation images are seen.
        dominance_bounds: Pairs (cost, fitness): a candidate of at least this cost with a worse fitness is dominated.
        judged_by: The fitness: errors, or their divergence from the baseline.
    """

    order: np.ndarray
    dominance_bounds: tuple[tuple[float, float], ...] = ()
    judged_by: FitnessName = "errors"

    def fitness_bound(self, cost: float) -> float:
        """The fitness above which a candidate of this cost is dominated; infinite if there is no such bound."""
        return min((fitness for least, fitness in self.dominance_bounds if least <= cost), default=math.inf)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """The mean error of recent candidates on each image.

    Images on which most of them err are seen first, so that the errors of the next candidates are found early.

    Attributes:
        wrong_share: float64 (images,), in 0..1.
    """

    wrong_share: np.ndarray

    @classmethod
    def empty(cls, images: int) -> "ImageRecord":
        """The record before any candidate was scored. images: their number."""
        return cls(np.zeros(images))

    def order(self) -> np.ndarray:
        """Indices of images, int64 (images,): most often wrong first, equal ones in the problem's order."""
        return np.argsort(-self.wrong_share, kind="stable")

    def updated(self, scored: Sequence[tuple[np.ndarray, Sequence[Outcome]]]) -> "ImageRecord":
        """The record after a generation. Images that no candidate saw keep their share.

        Args:
            scored: Pairs of an order of images and the outcomes of the candidates that saw images in this order.
        """
        wrong, seen = np.zeros(len(self.wrong_share)), np.zeros(len(self.wrong_share))
        for order, outcomes in scored:
            for outcome in outcomes:
                places = order[: outcome.score.images_seen]
                wrong[places] += outcome.image_errors()
                seen[places] += 1
        latest = np.divide(wrong, seen, out=self.wrong_share.copy(), where=seen > 0)
        return ImageRecord(MEMORY * self.wrong_share + (1 - MEMORY) * latest)
