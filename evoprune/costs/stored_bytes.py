"""The cost bytes."""

from evoprune.costs.cost_model import CostModel
from evoprune.plugins.kinds import cost_model
from evoprune.space.cost import phenotype_cost
from evoprune.space.phenotype import Phenotype
from evoprune.space.search_space import SearchSpace


@cost_model("bytes")
class StoredBytes(CostModel):
    """Size of the weights and masks as stored."""

    name = "bytes"
    unit = ""

    def of(self, space: SearchSpace, phenotype: Phenotype) -> float:
        """As `CostModel.of`."""
        return float(phenotype_cost(space, phenotype).bytes)

    @property
    def label(self) -> str:
        """As `CostModel.label`."""
        return "stored size (bytes)"
