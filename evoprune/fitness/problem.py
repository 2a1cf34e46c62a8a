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
    baseline_errors: int | None = None,
) -> Problem:
    """What candidates of this baseline are scored against.

    model: trained, in eval mode. calibration, images: float (n, c, h, w); labels: int64 (n,), the validation set.
    tolerance: a fraction, above baseline_errors: those of the whole network as scored (batch norm recalibrated like
    any other's), or of another one's, where they are given.
    """
    statistics = gram_statistics(model.to(device), space, calibration.to(device)) if compensate else None
    model.cpu()
    everything = Problem(model, space, calibration, images, labels, len(labels), statistics)
    logits = _logits_of_whole(everything, device)
    order = hardest_first(logits, labels)
    if baseline_errors is None:
        baseline_errors = wrong(logits, labels)
    return Problem(
        model=model,
        space=space,
        calibration=calibration,
        images=images[order],
        labels=labels[order],
        allowed_errors=allowed_errors(baseline_errors, len(labels), tolerance),
        statistics=statistics,
    )


def errors_as_scored(
    model: nn.Module, space: SearchSpace, calibration: Tensor, images: Tensor, labels: Tensor, device: torch.device
) -> int:
    """The errors of the whole network as it would be scored; arguments as of `make_problem`."""
    problem = Problem(model, space, calibration, images, labels, len(labels), statistics=None)
    return wrong(_logits_of_whole(problem, device), labels)


def _logits_of_whole(problem: Problem, device: torch.device) -> Tensor:
    """Logits of the unpruned network, recalibrated, for all images. Returns (n, classes), on the CPU."""
    whole = Scorer(problem, device).prepare(problem.space.full())
    with torch.inference_mode():
        return torch.cat([whole(batch.to(device)).cpu() for batch in problem.images.split(problem.batch_size)])
