"""From a baseline and its data to the problem that workers hold."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from evoprune.config.schema import CostName
from evoprune.scoring.execution import Execution
from evoprune.scoring.scorer import Problem, Scorer, allowed_errors, hardest_first
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.layer_statistics import gram_statistics
from evoprune.training.evaluation import count_misclassified


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
    cost: CostName = "macs",
    gram_bytes: int | None = None,
    execution: Execution | None = None,
    baseline_errors: int | None = None,
) -> Problem:
    """What candidates of this baseline are scored against.

    model: trained, in eval mode. calibration, images: float (n, c, h, w); labels: int64 (n,), the validation set.
    tolerance: a fraction, above baseline_errors: those of the whole network as scored (batch norm recalibrated like
    any other's), or of another one's, where they are given. gram_bytes: the most that statistics for compensation
    take. execution: how networks are run.
    """
    statistics = gram_statistics(model.to(device), space, calibration.to(device), gram_bytes) if compensate else None
    model.cpu()
    problem = Problem(
        model=model,
        space=space,
        calibration=calibration,
        images=images,
        labels=labels,
        allowed_errors=len(labels),
        statistics=statistics,
        cost=cost,
        execution=execution or Execution(),
    )
    logits = Scorer(problem, device).logits(space.full())
    order = hardest_first(logits, labels)
    if baseline_errors is None:
        baseline_errors = count_misclassified(logits, labels)
    return replace(
        problem,
        images=images[order],
        labels=labels[order],
        said=log_softmax(logits[order].double(), dim=1),
        allowed_errors=allowed_errors(baseline_errors, len(labels), tolerance),
    )


def errors_as_scored(
    model: nn.Module, space: SearchSpace, calibration: Tensor, images: Tensor, labels: Tensor, device: torch.device
) -> int:
    """The errors of the whole network as it would be scored; arguments as of `make_problem`."""
    problem = Problem(model, space, calibration, images, labels, len(labels), statistics=None)
    return count_misclassified(Scorer(problem, device).logits(space.full()), labels)
