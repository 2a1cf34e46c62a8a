"""Small networks that hold what pruning stumbles over: attention, fixed shapes, branches of training, copies."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.space.blocks import CLASSES, conv_bn, head


class SpatialAttention(nn.Module):
    """A gate made of the mean and the maximum over all maps that stay (CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.gate = nn.Conv2d(2, 1, 3, padding=1)
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(self.last(x * torch.sigmoid(self.gate(both))))


class ChannelAttention(nn.Module):
    """ECA: a 1-d convolution that slides over the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.slide = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.slide(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return self.head(self.last(x * torch.sigmoid(gate)[:, :, None, None]))


class HardCodedView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.hidden, self.out = nn.Linear(128, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2).view(-1, 128)
        return self.out(F.relu(self.hidden(x)))


class ZeroPaddedShortcut(nn.Module):
    """Option A: maps 4..11 of 16 are those of the stem and may go with them; the others meet zeros and stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.first = conv_bn(8, 12, stride=2)
        self.second = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.head = head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(F.relu(self.second(self.first(x)) + shortcut))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(2).transpose(1, 2)  # (batch, pixels, maps)
        seen = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.last(x + seen.transpose(1, 2).reshape(x.shape)))


class DataDependent(nn.Module):
    """How maps are put together depends on a number that is read out of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.last = conv_bn(4, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if float(x[0, 0, 0, 0]) > -1:
            x = x.view(x.size(0), 2, -1, x.size(2), x.size(3)).sum(1)
        return self.head(self.last(x))


def signals() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(3, 8, 5, padding=2, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(8, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(10, CLASSES)),
    )


def volumes() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(8, 10, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(10, CLASSES)),
    )


class AuxiliaryHead(nn.Module):
    """A second classifier that runs in training only; its convolution is pruned along."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = conv_bn(3, 8), conv_bn(8, 12)
        self.head = head(12)
        self.side = nn.Sequential(conv_bn(8, 6), head(6))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        out = self.head(self.last(x))
        return (out, self.side(x)) if self.training else out


class Blur(nn.Module):
    """A fixed depthwise filter in a buffer, whose weights are none of the network's parameters."""

    taps: Tensor

    def __init__(self, maps: int, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("taps", torch.ones(maps, 1, 3, 3) / 9, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.taps, stride=2, padding=1, groups=len(self.taps))


def blurred(persistent: bool) -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), Blur(8, persistent), conv_bn(8, 12), head(12))


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3), nn.Conv2d(10, 12, 3)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        x = self.second(F.pad(F.relu(x), (1, 1, 1, 1), mode="replicate"))
        return self.head(self.third(F.pad(F.relu(x), (1, 0, 2, 1), value=1.0)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom, self.up = conv_bn(3, 8), conv_bn(8, 12), conv_bn(20, 10)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = self.bottom(F.max_pool2d(fine, 2))
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(self.up(torch.cat([fine, coarse], 1)))


def weight_normed() -> nn.Module:
    normed = parametrizations.weight_norm(nn.Conv2d(8, 10, 3))
    return nn.Sequential(conv_bn(3, 8), normed, nn.ReLU(), nn.Conv2d(10, 12, 3), nn.ReLU(), head(12))


def weight_normed_by_hook() -> nn.Module:
    normed = nn.utils.weight_norm(nn.Conv2d(8, 10, 3))
    return nn.Sequential(conv_bn(3, 8), normed, nn.ReLU(), nn.Conv2d(10, 12, 3), nn.ReLU(), head(12))


class UnevenSplit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.little, self.much = conv_bn(2, 4), conv_bn(6, 4)
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        little, much = torch.split(self.stem(x), [2, 6], dim=1)
        return self.head(self.little(little) + self.much(much))


class Squeezed(nn.Module):
    """squeeze() takes a single map for no dimension at all: at least two of the twelve stay."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 8), conv_bn(8, 12), nn.AdaptiveAvgPool2d(1))
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).squeeze())


class WrittenInto(nn.Module):
    """Maps are copied into a part of a tensor of zeros, whose width is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.last = conv_bn(10, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        canvas = x.new_zeros((x.size(0), 10, x.size(2), x.size(3)))
        canvas[:, 1:9] = x
        return self.head(self.last(canvas))


class SinglePrecisionInside(nn.Module):
    """Part of it runs in float32 whatever it is converted to: the proof cannot ask for float64's agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.last(torch.tanh(x.float()).to(x.dtype)))


class Unfolded(nn.Module):
    """A convolution written as im2col and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.taps = nn.Linear(72, 10)
        self.out = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(self.stem(x), 3).transpose(1, 2)  # (batch, pixels, maps * 9)
        return self.out(F.relu(self.taps(columns)).mean(1))
