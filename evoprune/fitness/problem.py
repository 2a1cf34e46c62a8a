"""From a baseline and its data to the problem that workers hold."""

import torch
from torch import Tensor, nn

from evoprune.fitness.scoring import Problem, Scorer, allowed_errors, hardest_first, wrong
from evoprune.space.plan import SearchSpace
from evoprune.surgery.compensation import gram_statistics


def make_problem(
    model: nn.Module,
    space: SearchSpace,
    calibration: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    tolerance: float,
    compensate: bool,
    device: torch.device,
) -> Problem:
    """What candidates of this baseline are scored against.

    model: trained, in eval mode. calibration, images: float (n, c, h, w); labels: int64 (n,), the validation set.
    tolerance: a fraction, above the error of the whole network as scored (batch norm recalibrated like any other's).
    """
    statistics = gram_statistics(model.to(device), space, calibration.to(device)) if compensate else None
    model.cpu()
    everything = Problem(model, space, calibration, images, labels, len(labels), statistics)
    whole = Scorer(everything, device).prepare(space.full())
    with torch.inference_mode():
        logits = torch.cat([whole(batch.to(device)).cpu() for batch in images.split(everything.batch_size)])
    order = hardest_first(logits, labels)
    return Problem(
        model=model,
        space=space,
        calibration=calibration,
        images=images[order],
        labels=labels[order],
        allowed_errors=allowed_errors(wrong(logits, labels), len(labels), tolerance),
        statistics=statistics,
    )
