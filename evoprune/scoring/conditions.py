"""What the scores of one generation depend on besides their genomes; fixed when the generation starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evoprune.config.schema import FitnessName
from evoprune.scoring.candidate import Outcome

MEMORY = 0.5
"""How much of an image's record is carried over from one generation to the next; the rest is what the last one said."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """order: int64 (images,), in which validation images are seen. known: (cost, fitness) of the front so far.

    Where a candidate of no higher cost is known to have a `fitness` (by `judged_by`: errors, or their divergence), one
    that has more cannot matter any more.
    """

    order: np.ndarray
    known: tuple[tuple[float, float], ...] = ()
    judged_by: FitnessName = "errors"

    def beaten_above(self, cost: float) -> float:
        """The most errors, or divergence, that a candidate of this cost may have before it is known not to matter."""
        return min((fitness for known_cost, fitness in self.known if known_cost <= cost), default=math.inf)


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """How often recent candidates got each image wrong: float64 (images,), in 0..1.

    What most of them get wrong is seen first, so that the errors of the next ones are found at once.
    """

    wrong_share: np.ndarray

    @classmethod
    def empty(cls, images: int) -> "ImageRecord":
        return cls(np.zeros(images))

    def order(self) -> np.ndarray:
        """Most often wrong first; of images alike, in the problem's own order (by the baseline's margin)."""
        return np.argsort(-self.wrong_share, kind="stable")

    def updated(self, scored: Sequence[tuple[np.ndarray, Sequence[Outcome]]]) -> "ImageRecord":
        """The record after a generation. Images that nobody saw keep what they had.

        scored: orders, and the outcomes of those who saw the images in them.
        """
        wrong, seen = np.zeros(len(self.wrong_share)), np.zeros(len(self.wrong_share))
        for order, outcomes in scored:
            for outcome in outcomes:
                places = order[: outcome.score.images_seen]
                wrong[places] += outcome.wrong_flags()
                seen[places] += 1
        latest = np.divide(wrong, seen, out=self.wrong_share.copy(), where=seen > 0)
        return ImageRecord(MEMORY * self.wrong_share + (1 - MEMORY) * latest)
