"""The base class of costs, and the layers that a genome leaves."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from evoprune.space.cost import cut_elements
from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace


class CostModel(ABC):
    """A cost that a search can minimise, such as an energy.

    It is constructed without arguments, and must be importable, because workers in other processes use it. A subclass
    defines `name`, `unit` and `of`.

    Attributes:
        name: lowercase letters, digits and '_'; tables have the cost in a column of this name.
        unit: for plots and reports, as in `mJ`.

    Example:
        >>> class Energy(ep.CostModel):
        ...     '''Energy of one image, by the kind of each layer.'''
        ...     name, unit = "energy", "mJ"
        ...     picojoules = {"convolution": 2.1, "linear": 3.4}  # of a multiply-accumulate
        ...     def of(self, space, phenotype):
        ...         layers = ep.remaining_layers(space, phenotype)
        ...         return 1e-9 * sum(self.picojoules[layer.kind] * layer.macs for layer in layers)

        In a config: `search: {cost: "my_module:Energy"}`.
    """

    name: str
    unit: str

    @abstractmethod
    def of(self, space: SearchSpace, phenotype: Phenotype) -> float:
        """The cost of the network that a genome leaves.

        It must not rise when a map, kernel or tap goes, because algorithms bring genomes to a target by bisection.

        Args:
            space: the search space.
            phenotype: what the genome leaves: `space.phenotype(genome)`.

        Returns:
            A finite number, 0 or more.
        """

    def measure(self, model: nn.Module, space: SearchSpace, image: Tensor) -> Any:
        """The measurements of this machine that `of` needs, once a run; by default none.

        It is kept in the run folder, so that a resumed search judges candidates as before.

        Args:
            model: the unpruned network, in eval mode, on the CPU.
            space: its search space.
            image: float (1, c, h, w).

        Returns:
            Plain JSON data; None for nothing.
        """
        return None

    def load(self, measured: Any) -> None:
        """Takes in what `measure` returned, now or in an earlier process; called before `of` if that is not None."""
        raise NotImplementedError("a cost that measures loads what it measured")

    @property
    def measures(self) -> bool:
        """Whether the class measures something."""
        return type(self).measure is not CostModel.measure

    @property
    def column(self) -> str:
        """The column of candidates and survivors that has this cost."""
        return self.name

    @property
    def label(self) -> str:
        """The axis label of plots."""
        return f"{self.name.replace('_', ' ')} ({self.unit})" if self.unit else self.name.replace("_", " ")


@dataclass(frozen=True)
class RemainingLayer:
    """A layer as a genome leaves it.

    Attributes:
        layer: the whole layer: name, kind (`convolution`, `transposed convolution` or `linear`), shape of its weight.
        weights: number of weights that stay; masked ones do not count.
        dense_weights: the same with masked ones.
    """

    layer: Layer
    weights: int
    dense_weights: int

    @property
    def kind(self) -> str:
        """The kind of the layer: `convolution`, `transposed convolution` or `linear`."""
        return self.layer.kind

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.weights * self.layer.positions


def remaining_layers(space: SearchSpace, phenotype: Phenotype) -> tuple[RemainingLayer, ...]:
    """The layers that a genome leaves, in the order of the forward pass.

    Args:
        space: the search space.
        phenotype: `space.phenotype(genome)`.

    Example:
        >>> [layer.macs for layer in ep.remaining_layers(space, space.phenotype(genome))]
    """
    dense = cut_elements(space, phenotype)
    masked: Mapping[str, int] = {
        weight: int(np.count_nonzero(kernels)) for weight, kernels in phenotype.kernels.items()
    }
    return tuple(
        RemainingLayer(layer, masked.get(layer.weight, dense[layer.weight]), dense[layer.weight])
        for layer in space.layers
    )
