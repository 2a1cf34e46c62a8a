"""Small networks of the usual architectures, all of whose maps may go but where a group binds them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.space.blocks import CLASSES, conv_bn, head, shuffle


def plain() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), nn.MaxPool2d(2), conv_bn(8, 12), head(12))


def frozen_plain() -> nn.Module:
    return plain().requires_grad_(False)


def bias_without_norm() -> nn.Module:
    convs = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, CLASSES))


class Residual(nn.Module):
    """stem 8; 8 -> 12 -> outputs, plus the stem itself or its projection."""

    def __init__(self, project: bool) -> None:
        super().__init__()
        outputs, stride = (16, 2) if project else (8, 1)
        self.stem = conv_bn(3, 8)
        self.first = conv_bn(8, 12, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(12, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Conv2d(8, outputs, 1, stride=stride) if project else nn.Identity()
        self.head = head(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.second(self.first(x)) + self.shortcut(x)))


def separable(multiplier: int) -> nn.Module:
    wide = 8 * multiplier
    return nn.Sequential(conv_bn(3, 8), conv_bn(8, wide, groups=8), conv_bn(wide, 12, 1), head(12))


def grouped(groups: int) -> nn.Module:
    """12 -> 18 in groups: 6 of (2 -> 3), whole groups are 6 genes; or 2 of (6 -> 9), equal widths are 6 + 9."""
    return nn.Sequential(conv_bn(3, 12), conv_bn(12, 18, groups=groups), conv_bn(18, 10), head(10))


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1, bias=False))
        self.second = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 6, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(18)
        self.head = head(18)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.first(x)], 1)
        x = torch.cat([x, self.second(x)], 1)
        return self.head(torch.relu(self.norm(x)))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.one = conv_bn(8, 4, 1)
        self.three = nn.Sequential(conv_bn(8, 5, 1), conv_bn(5, 6))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(8, 7, 1))
        self.mix = conv_bn(17, 9)
        self.head = head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.mix(torch.cat((self.one(x), self.three(x), self.pool(x)), 1)))


class Fire(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.one = nn.Conv2d(4, 6, 1)
        self.three = nn.Conv2d(4, 7, 3, padding=1)
        self.classifier = nn.Conv2d(13, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(F.relu(self.stem(x))))
        x = torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], dim=1)
        return F.adaptive_avg_pool2d(self.classifier(x), 1).flatten(1)


class ShuffleV2(nn.Module):
    """Halves go to two branches, are put together and shuffled. Map i of both halves and of the branch: one gene."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.branch = nn.Sequential(conv_bn(4, 6, 1), conv_bn(6, 6, groups=6), conv_bn(6, 4, 1))
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        return self.head(self.last(shuffle(torch.cat((left, self.branch(right)), dim=1), 2)))


class ShuffleV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise, grouped 1x1: the shuffle binds every map between the two to every other."""

    def __init__(self, native: bool) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.first = conv_bn(12, 12, 1, groups=3)
        self.shuffle = nn.ChannelShuffle(3) if native else nn.Identity()
        self.depthwise = conv_bn(12, 12, groups=12)
        self.second = conv_bn(12, 12, 1, groups=3)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.shuffle(self.first(x))
        if isinstance(self.shuffle, nn.Identity):
            y = shuffle(y, 3)
        return self.head(x + self.second(self.depthwise(y)))


class NativeShuffle(nn.Module):
    """The shuffle as one operation, in front of an ordinary convolution: a map in each of two groups is a gene."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 8), nn.ChannelShuffle(2), conv_bn(8, 10))
        self.head = head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return self.head(self.last(x * torch.sigmoid(gate)))


def flattened() -> nn.Module:
    """4x6 pixels, pooled to 2x3: each of 8 maps takes 6 inputs of the hidden layer along."""
    convs = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*convs, nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def group_norms() -> nn.Module:
    """4 groups of 2 maps go whole; 2 groups of 6 keep equal widths; one group of all maps: single maps."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1)),
        *(nn.GroupNorm(2, 12), nn.ReLU(), nn.Conv2d(12, 10, 3, padding=1), nn.GroupNorm(1, 10), head(10)),
    )


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm = nn.LayerNorm(8, eps=1e-6)
        self.wide, self.narrow = nn.Linear(8, 20), nn.Linear(20, 8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))  # (batch, h, w, maps)
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return self.head(x + self.scale * y)


def instance_norms() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 12, 3)),
        *(nn.InstanceNorm2d(12, affine=True, track_running_stats=True), nn.ReLU(), head(12)),
    )


def prelus() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 10, 3), nn.PReLU(), head(10))


def transposed() -> nn.Module:
    """Grouped: 2 of (5 -> 3) keep equal widths, 5 and 3 genes; 4 of (2 -> 2) go whole, with those they read: 4."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 10, 4, stride=2), nn.ReLU()),
        *(nn.ConvTranspose2d(10, 6, 3, groups=2, output_padding=0), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 8, 2, groups=4, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)),
    )


def geometries() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, padding=2, dilation=2, stride=2),
        nn.Conv2d(8, 10, (1, 7), padding=(0, 3)),
        nn.Conv2d(10, 12, (7, 1), padding=(3, 0)),
        nn.Conv2d(12, 14, 5, padding="same"),
        head(14),
    )


def circular() -> nn.Module:
    """Circular padding writes what it pads into parts of an empty tensor."""
    return nn.Sequential(conv_bn(3, 8), nn.Conv2d(8, 10, 3, padding=1, padding_mode="circular"), head(10))


class Twice(nn.Module):
    """A convolution that reads its own outputs: its maps and the stem's are the same eight genes."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.once = nn.Conv2d(8, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1) if tied else self.once
        self.again.weight = self.once.weight
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.again(F.relu(self.once(self.stem(x))))))


class Functional(nn.Module):
    """No layer modules at all. 2x2 pixels of 8 + 6 maps are flattened into a hidden layer of 10."""

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(8, 3, 3, 3))
        self.second = nn.Parameter(torch.empty(6, 8, 3, 3))
        self.scale, self.shift = nn.Parameter(torch.empty(8)), nn.Parameter(torch.empty(8))
        self.register_buffer("mean", torch.empty(8))
        self.register_buffer("var", torch.empty(8))
        self.hidden, self.bias = nn.Parameter(torch.empty(10, 56)), nn.Parameter(torch.empty(10))
        self.out = nn.Parameter(torch.empty(CLASSES, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first, stride=2, padding=1)
        x = F.relu(F.batch_norm(x, self.mean, self.var, self.scale, self.shift, training=False))
        x = torch.cat([x, F.conv2d(x, self.second, padding=1)], dim=1)
        x = F.max_pool2d(x, 2)
        x = F.linear(x.view(x.size(0), -1), self.hidden, self.bias)
        return F.relu(x) @ self.out.t()


class ManyInputs(nn.Module):
    """Two pictures of different sizes are added; the outputs are a dict. Its example is a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.both = conv_bn(8, 12)
        self.head, self.map = head(12), nn.Conv2d(12, 2, 1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        x = self.both(F.relu(self.left(left) + self.right(right)))
        return {"classes": self.head(x), "map": self.map(x)}


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.last = conv_bn(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.head(self.last(x)), x


class Pixels(nn.Module):
    """Four maps of `wide` become one of four times as many pixels, and one map becomes four of a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.wide = nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.down = nn.PixelShuffle(2), nn.PixelUnshuffle(2)
        self.fine = conv_bn(4, 6)
        self.coarse = conv_bn(24, 10)
        self.head = head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fine(self.up(self.wide(self.stem(x))))
        return self.head(self.coarse(self.down(x)))
