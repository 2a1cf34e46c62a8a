"""Makes the problem that workers hold from a baseline and its data."""

import logging
from dataclasses import replace
from itertools import repeat

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
from evoprune.tasks.judging import class_weights, count_errors_of, margins_of, task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, concatenated, moved, select, split, tensors_in

logger = logging.getLogger(__name__)


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
    reference_bytes: int | None = None,
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
        reference_bytes: Memory that the baseline's outputs may take; if they take more, no divergence is measured.
            None: no limit.
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
    weights = class_weights(task, targets) if balanced else None
    margins, errors, reference = _judged(problem, device, weights, reference_bytes)
    order = torch.argsort(margins, stable=True)
    if baseline_errors is None:
        baseline_errors = errors
    return replace(
        problem,
        images=images[order],
        targets=select(targets, order),
        reference=select(reference, order),
        allowed_errors=allowed_errors(baseline_errors, len(images), tolerance),
        weights=None if weights is None else weights[order],
    )


def _judged(
    problem: Problem, device: torch.device, weights: Tensor | None, most_bytes: int | None
) -> tuple[Tensor, float, Tree]:
    """The baseline's margins, (m,), the sum of its errors, and its reference, None if it took more bytes than allowed.

    It is judged batch by batch, because all outputs of a network that gives maps may not fit into memory.
    """
    task, size = problem.task, problem.execution.batch_size
    forward, cpu = Scorer(problem, device).forward(problem.space.full()), torch.device("cpu")
    margins: list[Tensor] = []
    references: list[Tree] | None = []
    errors: float = 0
    factors = repeat(None) if weights is None else weights.split(size)
    batches = zip(problem.images.split(size), split(problem.targets, size), factors, strict=False)
    for images, targets, factor in batches:
        outputs = moved(forward(images.to(device)), cpu)
        errors += count_errors_of(task, outputs, targets, factor)
        margins.append(margins_of(task, outputs, targets))
        if references is not None:
            with task_call(task, "reference"):
                references.append(task.reference(outputs))
            taken = sum(tensor.nbytes for tensor in tensors_in(references[0])) * len(problem.images) / len(images)
            if most_bytes is not None and taken > most_bytes:
                logger.warning(
                    "no divergence from the unpruned network is measured: its outputs take %.1f GiB; lower "
                    "data.validation for it",
                    taken / 2**30,
                )
                references = None
    return torch.cat(margins), errors, None if references is None else concatenated(references)


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
