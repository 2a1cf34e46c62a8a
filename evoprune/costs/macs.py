"""The cost macs."""

from evoprune.costs.cost_model import CostModel
from evoprune.plugins.kinds import cost_model
from evoprune.space.cost import phenotype_cost
from evoprune.space.phenotype import Phenotype
from evoprune.space.search_space import SearchSpace


@cost_model("macs")
class Macs(CostModel):
    """Multiply-accumulates of one image."""

    name = "macs"
    unit = ""

    def of(self, space: SearchSpace, phenotype: Phenotype) -> float:
        """As `CostModel.of`."""
        return float(phenotype_cost(space, phenotype).macs)

    @property
    def label(self) -> str:
        """As `CostModel.label`."""
        return "MACs of one image"
