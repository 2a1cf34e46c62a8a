"""The results of scoring: plain, immutable records that cross processes and are written to tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

_MOST_BYTE = 255


@dataclass(frozen=True)
class Score:
    """The measurements of one candidate.

    Attributes:
        errors: Sum of the errors of the images seen, each 0 or 1 (an int), or a share (a float).
        images_seen: Number of images seen, in scoring order.
        images: Number of validation images.
        feasible: True only if all images were seen, False only if the errors passed the tolerance, None if scoring
            stopped because the candidate is dominated.
        exact: Whether all images were seen.
        macs: Multiply-accumulates of one image.
        params: Number of parameters.
        bytes: Size of the weights and masks as stored.
        eval_seconds: Duration of scoring, in seconds.
        other_costs: By column, the cost that the search minimises if it is none of `macs`, `params` and `bytes`.
        failed: Whether scoring ended or hung its worker every time. Then all images count as errors.
        divergence: Sum of the divergences of the images seen from the unpruned network; None if none is measured.
    """

    errors: float
    images_seen: int
    images: int
    feasible: bool | None
    exact: bool
    macs: int
    params: int
    bytes: int
    eval_seconds: float
    other_costs: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False
    divergence: float | None = None

    @property
    def mcr(self) -> float | None:
        """Mean error of an image, in 0..1: the misclassification rate; None if scoring stopped early."""
        return self.errors / self.images if self.exact else None


@dataclass(frozen=True)
class Outcome:
    """A score, and the error of each image seen, in scoring order: a bit if errors are 0 or 1, else a byte."""

    score: Score
    packed: bytes
    are_bits: bool = True

    @classmethod
    def of(cls, score: Score, errors: np.ndarray) -> "Outcome":
        """The outcome of a score and the errors of its images: bool, or float in 0..1, (images_seen,)."""
        if errors.dtype == bool:
            return cls(score, np.packbits(errors).tobytes())
        return cls(score, np.round(errors * _MOST_BYTE).astype(np.uint8).tobytes(), are_bits=False)

    def image_errors(self) -> np.ndarray:
        """The error of each image seen: bool (images_seen,), or float64 rounded to 255ths."""
        packed = np.frombuffer(self.packed, dtype=np.uint8)
        if self.are_bits:
            return np.unpackbits(packed, count=self.score.images_seen).astype(bool)
        return packed / _MOST_BYTE


@dataclass(frozen=True)
class Candidate:
    """A genome with its score.

    Attributes:
        generation: The generation that it belongs to, from 0.
        key: The key of its phenotype.
        genome: uint8 (genes,).
        score: Its score.
        cached: Whether the score is that of an equal phenotype, scored before.
    """

    generation: int
    key: str
    genome: np.ndarray
    score: Score
    cached: bool
