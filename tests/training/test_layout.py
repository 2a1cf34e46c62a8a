"""The layout is the fast one where the network runs so."""

import pytest
import torch
from torch import Tensor, nn

from evoprune.training.layout import lay_out, lay_out_to_train


class Viewing(nn.Module):
    """Views its maps as vectors, which channels-last memory does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(images)
        return maps.view(images.size(0), -1)


IMAGES = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_channels_last_for_networks_that_run_in_it() -> None:
    conv = nn.Conv2d(3, 4, 3)
    network = nn.Sequential(conv, nn.Flatten()).train()
    before = network(IMAGES)
    assert lay_out(network, IMAGES) == torch.channels_last
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.training
    torch.testing.assert_close(network(IMAGES.contiguous(memory_format=torch.channels_last)), before)


def test_contiguous_for_other_networks() -> None:
    network = Viewing()
    before = network(IMAGES)
    assert lay_out(network, IMAGES) == torch.contiguous_format
    assert network.conv.weight.is_contiguous()
    assert torch.equal(network(IMAGES), before)


@pytest.mark.parametrize(
    ("convolution", "layout"),
    [
        (nn.Conv2d(15, 4, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(32, 4, 1, stride=(1, 2), groups=4), torch.contiguous_format),  # 8 input maps a group
        (nn.Conv2d(16, 4, 1, stride=2), torch.channels_last),
        (nn.Conv2d(15, 4, 1), torch.channels_last),
        (nn.Conv2d(15, 4, 3, stride=2), torch.channels_last),
    ],
)
def test_narrow_shortcuts_are_trained_in_contiguous_memory(convolution: nn.Conv2d, layout: torch.memory_format) -> None:
    before = nn.Conv2d(3, convolution.in_channels, 3)
    network = nn.Sequential(before, convolution).to(memory_format=torch.channels_last)
    assert lay_out_to_train(network, IMAGES) == layout
    assert before.weight.is_contiguous(memory_format=layout)
    assert lay_out(network, IMAGES) == torch.channels_last
