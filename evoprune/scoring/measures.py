"""The number of errors that are allowed."""

import numpy as np


def allowed_errors(baseline_errors: float, images: int, tolerance: float) -> float:
    """The largest sum of errors of a feasible candidate.

    Args:
        baseline_errors: The baseline's errors: an int if each error is 0 or 1, then the result is one, too.
        images: Number of validation images.
        tolerance: Allowed rise in the mean error, a fraction (0.02: two percentage points).
    """
    most = baseline_errors + tolerance * images + 1e-9
    return int(np.floor(most)) if isinstance(baseline_errors, int) else most
