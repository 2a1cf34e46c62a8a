"""The criterion batch_norm_scale."""

import torch
from torch import nn

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues, merge_positions
from evoprune.errors import ConfigError
from evoprune.plugins.kinds import criterion


@criterion("batch_norm_scale")
class BatchNormScale(Criterion):
    """|gamma|, the factor of each map's batch norm. There is none for maps without batch norm.

    References:
        Liu et al. 2017, section 3.2 (network slimming; there the network is trained with an L1 penalty on gamma).
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`.

        Raises:
            ConfigError: no prunable map has a batch norm.
        """
        scales = {
            f"{name}.weight": module.weight.detach().to("cpu", torch.float64).abs().numpy()
            for name, module in context.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
        }
        space = context.space
        values = [merge_positions(axis.gene, scales[axis.tensor]) for axis in space.axes if axis.tensor in scales]
        if not values and space.maps:
            raise ConfigError(
                "the criterion batch_norm_scale needs batch norms behind prunable feature maps, "
                "and this network has none; take l1"
            )
        return values
