"""Pieces of small networks."""

from typing import Any

from torch import Tensor, nn

CLASSES = 5


def conv_bn(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Sequential:
    padding = options.pop("padding", size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def head(maps: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, CLASSES))


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, maps, height, width = x.size()
    return x.view(batch, groups, maps // groups, height, width).transpose(1, 2).reshape(batch, maps, height, width)
