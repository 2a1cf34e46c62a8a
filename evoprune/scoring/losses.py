"""The loss and the errors of whole networks, apart from scores."""

from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.surgery.apply import compact
from evoprune.tasks.judging import count_errors_of, summed_loss_of
from evoprune.tasks.trees import Tree
from evoprune.training.evaluation import batches_of, outputs


@dataclass(frozen=True, eq=False)
class Examples:
    """Images, float (n, c, h, w), and their targets."""

    images: Tensor
    targets: Tree


def loss_of(problem: Problem, genome: Genome, examples: Examples, device: torch.device) -> float:
    """The mean loss of the genome's network, without compensation and with the baseline's batch norm.

    Args:
        problem: The problem that the genome belongs to.
        genome: The genome.
        examples: The images that the loss is taken over.
        device: The device that it is computed on.
    """
    network, size = compact(problem.model, problem.space, genome).to(device).eval(), problem.execution.batch_size
    with torch.inference_mode():
        batches = batches_of(examples.images, examples.targets, size)
        total = sum(summed_loss_of(problem.task, *pair) for pair in outputs(network, batches, device))
    return total / len(examples.images)


def errors_on_validation(problem: Problem, network: nn.Module, device: torch.device) -> float:
    """The sum of a network's errors on the validation images, weighted as the problem's scores are.

    Args:
        problem: The problem with the images.
        network: A network on the device, in eval mode.
        device: The device that it computes on.
    """
    size = problem.execution.batch_size
    weights = repeat(None) if problem.weights is None else problem.weights.split(size)
    with torch.inference_mode():
        found = outputs(network, batches_of(problem.images, problem.targets, size), device)
        return sum(count_errors_of(problem.task, *pair, weight) for pair, weight in zip(found, weights, strict=False))
