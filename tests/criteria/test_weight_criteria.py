"""Importance of genes from the weights, by hand."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.criteria.importance import filter_l1, merge_layers
from evoprune.criteria.preferences import group_ranks
from tests.search.made_up import space_of


def conv_of(*rows: float) -> nn.Conv2d:
    """A 1x1 convolution of one input map, with these weights."""
    conv = nn.Conv2d(1, len(rows), 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(rows)[:, None, None, None])
    return conv


def test_shares_of_the_largest_filter() -> None:
    """Weights 1, -4 and 2: as shares of the largest 1/4, 1 and 1/2. Of the linear layer the mean of |weights| counts:
    (1 + 1) / 2, (0 + 4) / 2 and so on, here of rows over 3 inputs."""
    hidden = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0, -1.0, 4.0], [0.0, 3.0, 0.0]]))
    model = nn.Sequential(
        OrderedDict(conv=conv_of(1.0, -4.0, 2.0), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=hidden)
    )
    model.append(nn.Linear(2, 2))
    space = ep.search_space(model, torch.randn(1, 1, 4, 4))
    assert [group.layers for group in space.groups] == [("conv",), ("fc",)]
    assert merge_layers(space, filter_l1(model, space), "largest").tolist() == pytest.approx([0.25, 1, 0.5, 1, 0.5])


class Residual(nn.Module):
    """Two convolutions of one input added: their maps go together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_of(1.0, 4.0), conv_of(9.0, 3.0)
        self.out = nn.Conv2d(2, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.one(images) + self.two(images))


def test_maps_that_go_together_have_the_mean_of_their_shares() -> None:
    """(1/4 + 9/9) / 2 and (4/4 + 3/9) / 2."""
    model = Residual()
    space = ep.search_space(model, torch.randn(1, 1, 4, 4))
    assert merge_layers(space, filter_l1(model, space), "largest").tolist() == pytest.approx([0.625, 2 / 3])


def test_weights_of_zero_have_no_importance() -> None:
    model = nn.Sequential(conv_of(0.0, 0.0), nn.Conv2d(2, 3, 1))
    space = ep.search_space(model, torch.randn(1, 1, 4, 4))
    assert merge_layers(space, filter_l1(model, space), "largest").tolist() == [0, 0]


def test_ranks_are_within_groups() -> None:
    importance = np.array([0.3, 0.1, 0.2, 5.0, 7.0, 7.0])
    assert group_ranks(space_of(3, 3), importance).tolist() == [1, 0, 0.5, 0, 0.5, 1]
