"""The results of scoring: plain, immutable records that cross processes and are written to tables."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """The measurements of one candidate.

    Attributes:
        errors: Number of misclassified images among those seen.
        images_seen: Number of images seen, in scoring order.
        images: Number of validation images.
        feasible: True only if all images were seen, False only if the errors passed the tolerance, None if scoring
            stopped because the candidate is dominated.
        exact: Whether all images were seen.
        macs: Multiply-accumulates of one image.
        params: Number of parameters.
        bytes: Size of the weights and masks as stored.
        eval_seconds: Duration of scoring, in seconds.
        latency_ms: Predicted latency of one image, in milliseconds; None if the search predicts none.
        failed: Whether scoring ended or hung its worker every time. Then all images count as errors.
        divergence: Sum of `measures.divergences` over the images seen, in nats; None in older tables.
    """

    errors: int
    images_seen: int
    images: int
    feasible: bool | None
    exact: bool
    macs: int
    params: int
    bytes: int
    eval_seconds: float
    latency_ms: float | None = None
    failed: bool = False
    divergence: float | None = None

    @property
    def mcr(self) -> float | None:
        """Misclassification rate, in 0..1; None if scoring stopped early."""
        return self.errors / self.images if self.exact else None


@dataclass(frozen=True)
class Outcome:
    """A score, and a bit for each image seen, in scoring order: whether it was misclassified."""

    score: Score
    wrong: bytes

    @classmethod
    def of(cls, score: Score, wrong: np.ndarray) -> "Outcome":
        """The outcome of a score and its misclassified images, bool (images_seen,)."""
        return cls(score, np.packbits(wrong).tobytes())

    def wrong_flags(self) -> np.ndarray:
        """Which of the images seen were misclassified: bool (images_seen,)."""
        bits = np.frombuffer(self.wrong, dtype=np.uint8)
        return np.unpackbits(bits, count=self.score.images_seen).astype(bool)


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
