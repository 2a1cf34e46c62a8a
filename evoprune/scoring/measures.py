"""Measures on logits: divergence from the baseline, margins, and the number of errors that are allowed."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MOST_NATS = 100.0
"""Largest divergence of one image, and that of logits that are not finite: e^-100 is 0 in single precision."""


def divergences(logits: Tensor, baseline_log_probs: Tensor) -> Tensor:
    """The Kullback-Leibler divergence KL(baseline || network) of each image.

    Args:
        logits: float (n, classes), the network's.
        baseline_log_probs: float64 (n, classes), logarithms of the baseline's probabilities.

    Returns:
        float64 (n,), in nats, between 0 and `MOST_NATS`.

    References:
        Kullback and Leibler, On Information and Sufficiency, Annals of Mathematical Statistics 22(1), 1951.
    """
    log_probs = functional.log_softmax(logits.double(), dim=1)
    nats = functional.kl_div(log_probs, baseline_log_probs, reduction="none", log_target=True).sum(1)
    return nats.nan_to_num(MOST_NATS, MOST_NATS).clamp(0, MOST_NATS)


def hardest_first(logits: Tensor, labels: Tensor) -> Tensor:
    """The order of images by the baseline's margin, least first; equal margins keep their order.

    The margin is the right class's logit minus the best other one. A smaller network misclassifies images of little
    margin first, so in this order an infeasible network is found out early.

    Args:
        logits: float (n, classes), the baseline's.
        labels: int64 (n,).

    Returns:
        int64 (n,), indices of images.
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return torch.argsort(right - others, stable=True)


def allowed_errors(baseline_errors: int, images: int, tolerance: float) -> int:
    """The largest number of errors of a feasible candidate.

    Args:
        baseline_errors: The baseline's errors.
        images: Number of validation images.
        tolerance: Allowed rise in the misclassification rate, a fraction (0.02: two percentage points).
    """
    return int(np.floor(baseline_errors + tolerance * images + 1e-9))
