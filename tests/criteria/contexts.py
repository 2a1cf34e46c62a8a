"""Networks of a few weights, and what criteria may look at of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.criteria.criterion import CriterionContext
from evoprune.discovery.discover import search_space
from evoprune.scoring.losses import Examples, loss_of
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome

CPU = torch.device("cpu")


def criterion_context(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    feature_maps: bool = True,
    kernels: bool = False,
    strides: bool = False,
) -> CriterionContext:
    """Labels are 0 by default."""
    space = search_space(model, images[:1], feature_maps=feature_maps, kernels=kernels, strides=strides)
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    problem = Problem(model, space, images, images, labels, allowed_errors=0, statistics=None)

    def losses(genomes: Sequence[Genome]) -> list[float]:
        return [loss_of(problem, genome, Examples(images, labels), CPU) for genome in genomes]

    return CriterionContext(model.eval(), space, images, labels, np.random.default_rng(0), losses, CPU)


def linear(rows: Any, bias: bool = False) -> nn.Linear:
    """A linear layer of these weights, float64; a bias is of zeros."""
    weight = torch.tensor(rows, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias:
            layer.bias.zero_()
    return layer


def doubles(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
