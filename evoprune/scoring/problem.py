"""Makes the problem that workers hold from a baseline and its data."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from evoprune.costs.cost_model import CostModel
from evoprune.costs.macs import Macs
from evoprune.scoring.execution import Execution
from evoprune.scoring.measures import allowed_errors
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.layer_statistics import gram_statistics
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import class_weights, count_errors_of
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, select


def make_problem(
    model: nn.Module,
    space: SearchSpace,
    calibration: Tensor,
    images: Tensor,
    targets: Tree,
    *,
    tolerance: float,
    compensate: bool,
    device: torch.device,
    cost: CostModel | None = None,
    gram_bytes: int | None = None,
    execution: Execution | None = None,
    baseline_errors: float | None = None,
    task: Task | None = None,
    balanced: bool = False,
) -> Problem:
    """The problem of finding smaller networks within a tolerance of this baseline.

    Args:
        model: The baseline, trained, in eval mode. It is on the CPU afterwards.
        space: The search space of the baseline.
        calibration: float (n, c, h, w), images for batch-norm statistics and compensation.
        images: float (m, c, h, w), validation images.
        targets: Their targets.
        tolerance: Allowed rise in the mean error over `baseline_errors`, a fraction.
        compensate: Whether the weights that stay take over what removed ones carried.
        device: The device that statistics and the baseline's outputs are computed on.
        cost: The cost that the search minimises; None: MACs.
        gram_bytes: Memory that the statistics for compensation may take, in bytes; None: no limit.
        execution: How networks are run; None: the defaults.
        baseline_errors: The errors that the tolerance adds to; None: those of this baseline as it is scored, with its
            batch norm recalibrated as any candidate's.
        task: Judges outputs; None: classification.
        balanced: Whether all classes count alike, however many images they have.
    """
    statistics = gram_statistics(model.to(device), space, calibration.to(device), gram_bytes) if compensate else None
    model.cpu()
    task = task or Classification()
    problem = Problem(
        model=model,
        space=space,
        calibration=calibration,
        images=images,
        targets=targets,
        allowed_errors=len(images),
        statistics=statistics,
        cost=Macs() if cost is None else cost,
        execution=execution or Execution(),
        task=task,
    )
    outputs = Scorer(problem, device).outputs(space.full())
    order = torch.argsort(task.margins(outputs, targets), stable=True)
    weights = class_weights(task, targets) if balanced else None
    if baseline_errors is None:
        baseline_errors = count_errors_of(task, outputs, targets, weights)
    return replace(
        problem,
        images=images[order],
        targets=select(targets, order),
        reference=task.reference(select(outputs, order)),
        allowed_errors=allowed_errors(baseline_errors, len(images), tolerance),
        weights=None if weights is None else weights[order],
    )


def outputs_as_scored(
    model: nn.Module, space: SearchSpace, calibration: Tensor, images: Tensor, device: torch.device
) -> Tree:
    """The outputs of the whole network as it is scored, with its batch norm recalibrated as any candidate's."""
    problem = Problem(model, space, calibration, images, None, len(images), statistics=None)
    return Scorer(problem, device).outputs(space.full())


def errors_as_scored(
    model: nn.Module,
    space: SearchSpace,
    calibration: Tensor,
    images: Tensor,
    targets: Tree,
    device: torch.device,
    task: Task | None = None,
    balanced: bool = False,
) -> float:
    """The errors of the whole network as it is scored; arguments as of `make_problem`."""
    task = task or Classification()
    outputs = outputs_as_scored(model, space, calibration, images, device)
    return count_errors_of(task, outputs, targets, class_weights(task, targets) if balanced else None)
