"""What scoring says of a genome: plain, immutable records that cross processes and go into tables."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """What was measured of one candidate.

    errors: misclassified among the `images_seen` first of `images` validation images (in scoring order).
    feasible: True only where every image was seen, False only where the errors passed the tolerance,
    None where scoring stopped because a known candidate of no higher cost is better already.
    exact: whether every image was seen. bytes: size of the weights and masks as stored. latency_ms: predicted for
    one image (`layer_times`), None where the search does not ask for it. failed: scoring it ended or hung its worker
    every time; then all images count as errors, and it is infeasible. divergence: the sum of `scoring.divergences`, in
    nats, of the images seen; None in older tables.
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
        """Misclassification rate in 0..1; None where scoring stopped early."""
        return self.errors / self.images if self.exact else None


@dataclass(frozen=True)
class Outcome:
    """A score, and which of the images that were seen were wrong: a bit each, in the order in which they were seen."""

    score: Score
    wrong: bytes

    @classmethod
    def of(cls, score: Score, wrong: np.ndarray) -> "Outcome":
        """wrong: bool (images_seen,)."""
        return cls(score, np.packbits(wrong).tobytes())

    def wrong_flags(self) -> np.ndarray:
        """Returns bool (images_seen,)."""
        bits = np.frombuffer(self.wrong, dtype=np.uint8)
        return np.unpackbits(bits, count=self.score.images_seen).astype(bool)


@dataclass(frozen=True)
class Candidate:
    """A genome (uint8 vector), the key of its phenotype, and its score in a generation.

    cached: the phenotype had been scored before, and the score is that one's.
    """

    generation: int
    key: str
    genome: np.ndarray
    score: Score
    cached: bool
