"""Gradients of layers' weights."""

import torch
from torch import Tensor, nn

from evoprune.criteria.importance import layer_weights
from evoprune.criteria.observation import BATCH_SIZE
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import weight_tensors
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, split


def weight_gradients(network: nn.Module, space: SearchSpace, target: Tensor) -> dict[str, Tensor]:
    """The gradient of a scalar by every layer's weight: float64 on the CPU."""
    weights = weight_tensors(network, space)
    found = torch.autograd.grad(target, list(weights.values()), allow_unused=True, materialize_grads=True)
    return {name: gradient.to("cpu", torch.float64) for name, gradient in zip(weights, found, strict=True)}


def loss_gradients(
    network: nn.Module, space: SearchSpace, images: Tensor, targets: Tree, task: Task
) -> dict[str, Tensor]:
    """The gradient of the mean loss by every layer's weight.

    Args:
        network: in eval mode, on the images' device, its weights taking gradients.
        space: its search space.
        images: float (n, c, h, w).
        targets: of the images, on their device.
        task: has the loss.

    Returns:
        Weight name -> gradient, float64 of the weight's shape, on the CPU.
    """
    totals = {name: torch.zeros_like(weight) for name, weight in layer_weights(network, space).items()}
    for batch, expected in zip(images.split(BATCH_SIZE), split(targets, BATCH_SIZE), strict=True):
        loss = task.summed_loss(network(batch), expected) / len(images)
        for name, gradient in weight_gradients(network, space, loss).items():
            totals[name] += gradient
    return totals
