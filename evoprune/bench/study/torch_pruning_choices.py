"""The choices of the Torch-Pruning library's own pruners as genomes: its importances, local and global."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from evoprune.bench.references import torch_pruning_library
from evoprune.data.splits import Split
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied

GRADIENT_IMAGES = 512
"""Number of training images for the gradients of Taylor importance."""

HESSIAN_IMAGES = 128
"""Number of training images for Hessian importance, which needs a gradient for each."""

STEPS = 14
"""Number of bisections of the pruning ratio: to 1 in 16,000."""

IMPORTANCES = ("l1", "l2", "taylor", "hessian", "lamp", "bn_scale")


def torch_pruning_genome(problem: Problem, train: Split, importance: str, across_layers: bool, target: float) -> Genome:
    """The genome of a Torch-Pruning pruner at the lowest pruning ratio that meets the target cost.

    Args:
        problem: the network.
        train: labelled images for importances that need gradients.
        importance: one of `IMPORTANCES`, with the library's default settings.
        across_layers: the library's global pruning.
        target: highest cost allowed.

    Raises:
        ConfigError: the library is not installed.
    """
    tp = torch_pruning_library()
    model = copied(problem.model)
    importances: dict[str, Callable[[], Any]] = {
        "l1": lambda: tp.importance.MagnitudeImportance(p=1),
        "l2": lambda: tp.importance.MagnitudeImportance(p=2),
        "taylor": lambda: _taylor(tp, model, train),
        "hessian": lambda: _hessian(tp, model, train),
        "lamp": lambda: tp.importance.LAMPImportance(p=2),
        "bn_scale": lambda: tp.importance.BNScaleImportance(),
    }
    scores = importances[importance]()
    low, high = 0.0, 1.0  # at the ratio `low` too little goes, at `high` enough
    best = kept_at(problem, model, scores, across_layers, high)
    for _ in range(STEPS):
        middle = (low + high) / 2
        genome = kept_at(problem, model, scores, across_layers, middle)
        if problem.cost_of(genome) <= target:
            best, high = genome, middle
        else:
            low = middle
    return best


def kept_at(problem: Problem, model: nn.Module, importance: Any, across_layers: bool, ratio: float) -> Genome:
    """The genome that one step of Torch-Pruning's pruner at this ratio of channels leaves; the model stays as it is."""
    tp, space = torch_pruning_library(), problem.space
    pruner = tp.pruner.BasePruner(
        model,
        problem.calibration[:1],
        importance,
        global_pruning=across_layers,
        pruning_ratio=ratio,
        ignored_layers=_whole_layers(model, space),
    )
    names = {module: name for name, module in model.named_modules()}
    genome = space.full()
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            if pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                _take(space, genome, f"{names.get(dependency.target.module)}.weight", indices)
    return space.repair(genome, np.zeros(space.genes))


def _take(space: SearchSpace, genome: Genome, weight: str, indices: Any) -> None:
    """Sets the genes of a layer's outputs to 0, in place."""
    layer = next((layer for layer in space.layers if layer.weight == weight), None)
    genes = None if layer is None else space.genes_along(weight, layer.out_dim)
    if genes is not None:
        gone = genes[np.asarray(indices, dtype=np.int64)]
        genome[gone[gone >= 0]] = 0


def _whole_layers(model: nn.Module, space: SearchSpace) -> list[nn.Module]:
    """Layers without prunable outputs: the classifier, and others that the search space keeps."""
    stays = [layer.name for layer in space.layers if space.genes_along(layer.weight, layer.out_dim) is None]
    return [model.get_submodule(name) for name in stays]


def _taylor(tp: Any, model: nn.Module, train: Split) -> Any:
    model.zero_grad()
    images, labels = train.batch(torch.arange(min(GRADIENT_IMAGES, len(train))))
    functional.cross_entropy(model(images), labels).backward()
    return tp.importance.TaylorImportance()


def _hessian(tp: Any, model: nn.Module, train: Split) -> Any:
    importance = tp.importance.HessianImportance()
    images, labels = train.batch(torch.arange(min(HESSIAN_IMAGES, len(train))))
    model.zero_grad()
    importance.zero_grad()
    losses = functional.cross_entropy(model(images), labels, reduction="none")
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        importance.accumulate_grad(model)
    return importance
