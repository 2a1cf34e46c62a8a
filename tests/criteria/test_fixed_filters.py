"""Fixed filters are layers whose weights are buffers: every criterion gives them values, and none changes them."""

import numpy as np
import pytest
import torch
from torch import nn

from evoprune.config.choices import CriterionName
from evoprune.criteria.criterion import WeightCriterion
from evoprune.criteria.importance_by_name import (
    CRITERIA,
    find_criterion,
    kernel_importance,
    map_importance,
    stride_importance,
    weight_importance,
)
from tests.criteria.contexts import criterion_context
from tests.discovery.awkward import Blur
from tests.space.blocks import conv_bn, head


def blurred() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(conv_bn(3, 4), Blur(4, persistent=False), conv_bn(4, 6), head(6)).eval()


@pytest.mark.parametrize("name", sorted(CRITERIA.names))
def test_every_criterion_runs(name: CriterionName) -> None:
    model = blurred()
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    context = criterion_context(model, images, kernels=True, strides=True)
    importance = map_importance(name, context)
    assert importance.shape == (context.space.maps,)
    assert np.isfinite(importance).all()
    assert torch.equal(model.get_buffer("1.taps"), torch.ones(4, 1, 3, 3) / 9)
    if isinstance(find_criterion(name), WeightCriterion):
        assert weight_importance(name, context)["1.taps"].shape == (4, 1, 3, 3)
        assert len(kernel_importance(name, context)) == len(context.space.kernels)
        assert len(stride_importance(name, context)) == len(context.space.strides)


def test_l1_by_hand() -> None:
    context = criterion_context(blurred(), torch.randn(2, 3, 8, 8), strides=True)
    place = [genes.weight for genes in context.space.strides].index("1.taps")
    genes = context.space.strides[place]
    kept = stride_importance("l1", context)[place]  # of nine equal taps, a mask keeps its share of them
    assert kept == pytest.approx(np.tile(genes.tap_table.sum(1) / 9, (genes.size, 1)))
