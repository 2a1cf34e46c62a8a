"""The usual ways to score a pruned network, against which ours is measured."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from evoprune.errors import ConfigError
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.space.tensors import copied
from evoprune.surgery.apply import mask
from evoprune.surgery.recalibration import recalibrate
from evoprune.tasks.judging import errors_of
from evoprune.training.evaluation import batches_of

BATCH_SIZE = 250

Reference = Callable[[Problem, Genome], np.ndarray]
"""Whether a genome's network misclassifies each validation image: bool (images,), in the problem's order."""


def masked_dense(problem: Problem, genome: Genome) -> np.ndarray:
    """Scores a copy of the network with zeros, batch norm recomputed, on all images."""
    return _scored(problem, mask(problem.model, problem.space, genome, problem.statistics))


def torch_pruning(problem: Problem, genome: Genome) -> np.ndarray:
    """Scores a deep copy pruned by Torch-Pruning's dependency graph, batch norm recomputed, on all images.

    Raises:
        ConfigError: Torch-Pruning is not installed.
    """
    tp = torch_pruning_library()
    model = copied(problem.model)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=problem.calibration[:1])
    phenotype = problem.space.check(genome)
    for group in problem.space.groups:
        layer = next(layer for layer in problem.space.layers if layer.name == group.layers[0])
        kept = phenotype.kept.get((layer.weight, layer.out_dim))
        if kept is None:
            continue
        root = model.get_submodule(layer.name)
        prune = tp.prune_linear_out_channels if isinstance(root, nn.Linear) else tp.prune_conv_out_channels
        gone = np.setdiff1d(np.arange(layer.shape[layer.out_dim]), kept)
        graph.get_pruning_group(root, prune, idxs=gone.tolist()).prune()
    return _scored(problem, model)


def _scored(problem: Problem, model: nn.Module) -> np.ndarray:
    model.eval()
    recalibrate(model, problem.calibration)
    with torch.no_grad():
        batches = batches_of(problem.images, problem.targets, BATCH_SIZE)
        return torch.cat([errors_of(problem.task, model(images), targets) for images, targets in batches]).numpy()


def torch_pruning_library() -> Any:
    """The library's module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        raise ConfigError(
            "the benchmark compares with Torch-Pruning, which is not installed; pip install 'evoprune[compare]'"
        ) from None
    return torch_pruning
