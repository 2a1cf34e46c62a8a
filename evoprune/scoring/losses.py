"""The loss of candidates' networks, which some criteria need."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.surgery.apply import compact
from evoprune.training.evaluation import batches_of, outputs, summed_cross_entropy


@dataclass(frozen=True, eq=False)
class Examples:
    """Images, float (n, c, h, w), and their labels, int64 (n,)."""

    images: Tensor
    labels: Tensor


def loss_of(problem: Problem, genome: Genome, examples: Examples, device: torch.device) -> float:
    """The mean cross entropy of the genome's network, without compensation and with the baseline's batch norm.

    Args:
        problem: The problem that the genome belongs to.
        genome: The genome.
        examples: The images that the loss is taken over.
        device: The device that it is computed on.
    """
    network, size = compact(problem.model, problem.space, genome).to(device).eval(), problem.execution.batch_size
    with torch.inference_mode():
        batches = batches_of(examples.images, examples.labels, size)
        total = sum(summed_cross_entropy(logits, labels) for logits, labels in outputs(network, batches, device))
    return total / len(examples.labels)
