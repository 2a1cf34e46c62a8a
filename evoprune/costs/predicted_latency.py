"""The cost latency_ms."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from evoprune.costs.cost_model import CostModel
from evoprune.latency.prediction import LatencyTable, latency_table
from evoprune.plugins.kinds import cost_model
from evoprune.space.phenotype import Phenotype
from evoprune.space.search_space import SearchSpace


@cost_model("latency_ms")
class PredictedLatency(CostModel):
    """Latency of one image, predicted from layers that are timed on this machine."""

    name = "latency_ms"
    unit = "ms"

    def __init__(self) -> None:
        self._table: LatencyTable | None = None

    def of(self, space: SearchSpace, phenotype: Phenotype) -> float:
        """As `CostModel.of`."""
        assert self._table is not None, "the times of the layers come first"
        return self._table.predict(space, phenotype)

    def measure(self, model: nn.Module, space: SearchSpace, image: Tensor) -> dict[str, Any]:
        """Times the layers, as `latency_table`."""
        return latency_table(model, space, image).to_dict()

    def load(self, measured: Mapping[str, Any]) -> None:
        """As `CostModel.load`."""
        self._table = LatencyTable.from_dict(measured)

    @property
    def column(self) -> str:
        """Not `latency_ms`, which survivors have as it was measured."""
        return "predicted_latency_ms"

    @property
    def label(self) -> str:
        """As `CostModel.label`."""
        return "predicted latency of one image (ms)"
