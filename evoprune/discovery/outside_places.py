"""Places outside of tensors where maps matter (reductions, products, attributes), as a forward pass shows them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
from torch import Tensor, nn

from evoprune.space.outside_tensors import OutsideTensors, Reduction, Size
from evoprune.space.tensors import size_of

MakeRecord = Callable[[np.ndarray], OutsideTensors]
"""Makes the record of a place from the genes of its maps, int32 (maps,)."""

Place = tuple[MakeRecord, Tensor]
"""A maker of a record, and the labels of its maps, int64 (maps,)."""


class OutsidePlaces:
    """The places of one network.

    Args:
        modules: Name -> module.

    Attributes:
        reductions: (module, operation, number of calls before) -> place.
        needed_sizes: (module, attribute) -> place, of attributes that the forward certainly computes with.
        other_sizes: The same for attributes that hold a number of maps, perhaps by chance.
        products: Places of matrix products, in the order of the forward pass.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._calls: Counter[tuple[str, str]] = Counter()
        self.reductions: dict[tuple[str, str, int], Place] = {}
        self.needed_sizes: dict[tuple[str, str], Place] = {}
        self.other_sizes: dict[tuple[str, str], Place] = {}
        self.products: list[Place] = []

    def count_call(self, module: str, operation: str) -> int:
        """Counts a call of an operation by a module. Returns the number of calls before it."""
        self._calls[module, operation] += 1
        return self._calls[module, operation] - 1

    def add_reduction(self, module: str, operation: str, earlier: int, dim: int, labels: Tensor) -> None:
        """Adds a reduction over maps along a dimension. earlier: number of calls before it."""
        self.reductions[module, operation, earlier] = partial(Reduction, module, operation, earlier, dim), labels

    def add_size(self, module: str, attribute: str, labels: Tensor, needed: bool = True) -> None:
        """Adds an attribute of a module, if it holds the number of these maps.

        Args:
            module: Name of the module.
            attribute: Name of the attribute.
            labels: int64 (maps,).
            needed: Whether the forward certainly computes with it.
        """
        if size_of(self._modules.get(module), attribute) == len(labels):
            sizes = self.needed_sizes if needed else self.other_sizes
            sizes[module, attribute] = partial(Size, module, attribute), labels

    def with_branches(self, branches: "OutsidePlaces") -> Iterable[Place]:
        """All places but those of other sizes; of training branches, those that cost no multiply-accumulates."""
        yield from (branches.reductions | self.reductions).values()
        yield from (branches.needed_sizes | self.needed_sizes).values()
        yield from self.products
