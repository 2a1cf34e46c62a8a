"""Makes the problem that workers hold from a baseline and its data."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from evoprune.config.choices import CostName
from evoprune.scoring.execution import Execution
from evoprune.scoring.measures import allowed_errors, hardest_first
from evoprune.scoring.scorer import Problem, Scorer
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
    """The problem of finding smaller networks within a tolerance of this baseline.

    Args:
        model: The baseline, trained, in eval mode. It is on the CPU afterwards.
        space: The search space of the baseline.
        calibration: float (n, c, h, w), images for batch-norm statistics and compensation.
        images: float (m, c, h, w), validation images.
        labels: int64 (m,), their labels.
        tolerance: Allowed rise in the misclassification rate over `baseline_errors`, a fraction.
        compensate: Whether the weights that stay take over what removed ones carried.
        device: The device that statistics and the baseline's logits are computed on.
        cost: The cost that the search minimises.
        gram_bytes: Memory that the statistics for compensation may take, in bytes; None: no limit.
        execution: How networks are run; None: the defaults.
        baseline_errors: The errors that the tolerance adds to; None: those of this baseline as it is scored, with its
            batch norm recalibrated as any candidate's.
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
        baseline_log_probs=log_softmax(logits[order].double(), dim=1),
        allowed_errors=allowed_errors(baseline_errors, len(labels), tolerance),
    )


def errors_as_scored(
    model: nn.Module, space: SearchSpace, calibration: Tensor, images: Tensor, labels: Tensor, device: torch.device
) -> int:
    """The number of errors of the whole network as it is scored; arguments as of `make_problem`."""
    problem = Problem(model, space, calibration, images, labels, len(labels), statistics=None)
    return count_misclassified(Scorer(problem, device).logits(space.full()), labels)
