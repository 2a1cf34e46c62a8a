"""Costs of a user's own: two that work, and one for every mistake."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

import evoprune as ep


class Energy(ep.CostModel):
    """Energy by a table of kinds of layers."""

    name = "energy"
    unit = "nJ"
    picojoules: Mapping[str, float] = MappingProxyType({"convolution": 2.0, "linear": 3.0})

    def of(self, space: Any, phenotype: Any) -> float:
        layers = ep.remaining_layers(space, phenotype)
        return sum(self.picojoules[layer.kind] * layer.macs for layer in layers) / 1000


class Measured(Energy):
    """The same, by a table that is measured."""

    name = "measured_energy"

    def measure(self, model: nn.Module, space: Any, image: Tensor) -> Any:
        return {"convolution": float(image.ndim), "linear": 3}

    def load(self, measured: Any) -> None:
        self.picojoules = measured


class FailsLater(Energy):
    """Fails of every network but the whole one."""

    def of(self, space: Any, phenotype: Any) -> float:
        if len(phenotype.genome) - phenotype.genome.sum() > 2:
            raise RuntimeError("first line\nsecond line")
        return super().of(space, phenotype)


class NotFinite(Energy):
    def of(self, space: Any, phenotype: Any) -> float:
        return float("nan")


class Negative(Energy):
    def of(self, space: Any, phenotype: Any) -> float:
        return -1


class Text(Energy):
    def of(self, space: Any, phenotype: Any) -> Any:
        return "5 nJ"


class NoName(ep.CostModel):
    unit = "nJ"

    def of(self, space: Any, phenotype: Any) -> float:
        return 1.0


class NameOfAColumn(Energy):
    name = "mcr"


class MeasuresObjects(Measured):
    def measure(self, model: nn.Module, space: Any, image: Tensor) -> Any:
        return object()


def number() -> int:
    return 5


NOT_CALLABLE = 5
