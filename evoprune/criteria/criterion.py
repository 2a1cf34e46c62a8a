"""The base classes of criteria of importance."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.criteria.gradients import loss_gradients
from evoprune.criteria.importance import (
    LayerValues,
    Normalisation,
    WeightScores,
    filter_values,
    kernel_values,
    magnitude,
    mask_shares,
)
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, weight_tensors
from evoprune.surgery.layer_statistics import Statistics
from evoprune.tasks.classification import Classification
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, moved

Losses = Callable[[Sequence[Genome]], list[float]]
"""The mean loss of each genome's network on the context's images: see `workers.Workers.losses`."""


@dataclass(frozen=True, eq=False)
class CriterionContext:
    """The input of a criterion.

    Attributes:
        model: the trained network, in eval mode; criteria leave it as it is.
        space: its search space.
        images: float (n, c, h, w), examples from the training split.
        targets: of the images.
        rng: all random draws come from it.
        losses: computes the losses of whole networks.
        device: on which gradients are computed.
        statistics: of the layers' inputs, if they are known already.
        most_gram_bytes: memory that such statistics may take if they are not; None: no bound.
        task: has the loss.

    Example:
        >>> def random_values(context):
        ...     return context.rng.random(context.space.maps)
    """

    model: nn.Module
    space: SearchSpace
    images: Tensor
    targets: Tree
    rng: np.random.Generator
    losses: Losses
    device: torch.device
    statistics: Statistics | None = None
    most_gram_bytes: int | None = None
    task: Task = field(default_factory=Classification)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(c, h, w) of the images."""
        return tuple(self.images.shape[1:])

    @property
    def device_images(self) -> Tensor:
        """The images on the device."""
        return self.images.to(self.device)

    def network(self) -> nn.Module:
        """A copy of the model on the device; all its parameters and layers' weights take gradients."""
        network = copied(self.model).to(self.device).eval().requires_grad_(True)
        for weight in weight_tensors(network, self.space).values():  # a fixed filter is a buffer
            weight.requires_grad_(True)
        return network

    def gradients(self) -> WeightScores:
        """The gradient of the mean loss on the images by every layer's weight: float64, on the CPU."""
        return loss_gradients(
            self.network(), self.space, self.device_images, moved(self.targets, self.device), self.task
        )

    def draw_seed(self) -> int:
        """A seed for PyTorch's generators, drawn from `rng`."""
        return int(self.rng.integers(2**63))


class Criterion(ABC):
    """A criterion of the importance of parts; a higher value is more important.

    A subclass values feature maps, and kernels if it defines them; kernels and stride masks are otherwise valued by
    the magnitude of their weights. See `WeightCriterion` for criteria of single weights. It is constructed without
    arguments. A plain function of a `CriterionContext` does, too, if it returns float (maps,), a value for each feature
    map, or float (genes,), a value for each gene, of which those of stride masks are not read.

    Attributes:
        normalisation: makes the values of layers comparable, for global scope.
        additive: the values that several layers have of a map are added, not averaged.
        needs_labels: whether it reads the targets of the images.

    Example:
        >>> def spread(context):
        ...     '''The deviation of the weights that make a map.'''
        ...     values = np.zeros(context.space.maps)
        ...     for axis in context.space.axes:  # position -> gene, or -1 for a position that stays
        ...         weight, movable = context.model.get_parameter(axis.tensor), axis.gene >= 0
        ...         if axis.dim == 0 and weight.ndim > 1:
        ...             values[axis.gene[movable]] = weight.detach().flatten(1).std(1)[movable]
        ...     return values

        In a config: `search: {criterion: "my_module:spread"}`.
    """

    normalisation: Normalisation = "none"
    additive: bool = False
    needs_labels: bool = False

    @abstractmethod
    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """Each layer's values of its feature maps; layers without any are left out.

        Raises:
            ConfigError: the criterion does not go with this network.
        """

    def kernels(self, context: CriterionContext) -> list[np.ndarray]:
        """Values of kernel genes: float64 (genes,) for every entry of `space.kernels`."""
        return kernel_values(context.space, magnitude(context.model, context.space))

    def strides(self, context: CriterionContext) -> list[np.ndarray]:
        """The share of importance that each stride mask keeps, as `mask_shares`."""
        return mask_shares(context.space, magnitude(context.model, context.space))


class WeightCriterion(Criterion):
    """A criterion that values single weights; maps, kernels and stride masks are valued by their weights.

    Example:
        >>> class Saliency(ep.WeightCriterion):
        ...     '''|weight x gradient|.'''
        ...     needs_labels = True
        ...     def weights(self, context):
        ...         state = context.model.state_dict()
        ...         return {name: (state[name] * gradient).abs() for name, gradient in context.gradients().items()}
    """

    @abstractmethod
    def weights(self, context: CriterionContext) -> WeightScores:
        """Values of every weight of every layer."""

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`: by default, the mean over the weights that make a map."""
        return filter_values(context.space, self.weights(context))

    def kernels(self, context: CriterionContext) -> list[np.ndarray]:
        """As `Criterion.kernels`: the mean over a kernel's weights."""
        return kernel_values(context.space, self.weights(context))

    def strides(self, context: CriterionContext) -> list[np.ndarray]:
        """As `Criterion.strides`, by the values of the weights."""
        return mask_shares(context.space, self.weights(context))
