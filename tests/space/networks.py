"""Small networks that between them hold every construction that a search space must get right.

Each case says by hand how many genes each group has, in the order of the layers, and what stays whole and why.
Widths differ within a network, so that a mix-up shows in a shape. The classifier, which always stays whole as an
output, is not listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from evoprune.space.plan import SearchSpace

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """genes: of each group. whole: layer -> part of the reason. shapes: of the forward's arguments, batch first.

    scripts: `torch.jit.script` takes the original. dtype: what parameters and inputs are converted to.
    """

    build: Callable[[], nn.Module]
    genes: tuple[int, ...]
    whole: Mapping[str, str] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),)
    scripts: bool = True
    dtype: torch.dtype = torch.float32


def network(case: Case, seed: int = 0) -> nn.Module:
    """The network in eval mode, with every parameter and statistic drawn at random, none of them trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = case.build().eval()
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if not tensor.is_floating_point():
                    continue
                if tensor.ndim > 1 and tensor[0].numel() > 1:
                    tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
                elif "var" in name or "weight" in name or "scale" in name:
                    tensor.uniform_(0.5, 1.5)
                else:
                    tensor.uniform_(-0.5, 0.5)
        return model.to(case.dtype)


def example(case: Case, batch: int | None = None, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch or shape[0], *shape[1:]) for shape in case.shapes]
    return tuple(torch.randn(shape, generator=generator).to(case.dtype) for shape in shapes)


@cache
def space_of(name: str) -> SearchSpace:
    """The search space of a case, discovered once for all tests."""
    return SearchSpace.from_model(network(CASES[name]), example(CASES[name]))


def genomes(name: str) -> st.SearchStrategy[np.ndarray]:
    """Genomes that the space of a case allows: full, at the least widths, or anything between."""
    space = space_of(name)
    seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
    drawn = st.builds(space.random, seeds, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
    bits = st.lists(st.integers(0, 1), min_size=space.genes, max_size=space.genes)
    mixed = bits.map(lambda row: space.repair(np.array(row, dtype=np.uint8), np.arange(space.genes)))
    return st.one_of(st.just(space.full()), drawn, mixed)


def conv_bn(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Sequential:
    padding = options.pop("padding", size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def head(maps: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, CLASSES))


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


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, maps, height, width = x.size()
    return (
        x.view(batch, groups, maps // groups, height, width).transpose(1, 2).reshape(batch, maps, height, width)
    )


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


class SpatialAttention(nn.Module):
    """A gate made of the mean and the maximum over all maps: a map that goes would change them."""

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


WHOLE_TOGETHER = "its maps can only go all together"
NORMED = {"0.0": "weights are computed", "1": "weights are computed"}
BY_OTHERS = "takes all its maps together"

CASES: Mapping[str, Case] = {
    "plain": Case(plain, (8, 12)),
    "frozen parameters": Case(frozen_plain, (8, 12)),
    "bfloat16": Case(plain, (8, 12), dtype=torch.bfloat16),
    "float16": Case(plain, (8, 12), dtype=torch.float16),
    "bias without norm": Case(bias_without_norm, (8, 10, 16)),
    "residual": Case(lambda: Residual(False), (8, 12)),
    "residual with projection": Case(lambda: Residual(True), (8, 12, 16)),
    "depthwise separable": Case(lambda: separable(1), (8, 12)),
    "depthwise multiplier 2": Case(lambda: separable(2), (8, 12)),
    "grouped, groups go whole": Case(lambda: grouped(6), (6, 10)),
    "grouped, equal widths": Case(lambda: grouped(2), (6, 9, 10)),
    "dense block": Case(DenseBlock, (8, 4, 6)),
    "inception": Case(Inception, (8, 4, 5, 6, 7, 9)),
    "fire": Case(Fire, (8, 4, 6, 7)),
    "shufflenet v2": Case(ShuffleV2, (4, 6, 12)),
    "shufflenet v1": Case(lambda: ShuffleV1(False), (4,), {"first.0": WHOLE_TOGETHER}),
    "shufflenet v1, native": Case(lambda: ShuffleV1(True), (4,), {"first.0": WHOLE_TOGETHER}),
    "native shuffle": Case(NativeShuffle, (4, 10)),
    "squeeze and excitation": Case(SqueezeExcite, (8, 4, 12)),
    "flatten": Case(flattened, (8, 16), shapes=((2, 3, 4, 6),)),
    "group norms": Case(group_norms, (4, 6, 10)),
    "convnext": Case(ConvNeXt, (8, 20)),
    "instance norms": Case(instance_norms, (8, 12)),
    "prelus": Case(prelus, (8, 10)),
    "transposed": Case(transposed, (8, 5, 3, 4)),
    "geometries": Case(geometries, (8, 10, 12, 14)),
    "circular padding": Case(circular, (8, 10)),
    "module used twice": Case(lambda: Twice(False), (8,)),
    "weights tied": Case(lambda: Twice(True), (8,)),
    "functional": Case(Functional, (8, 6, 10)),
    "two inputs, dict output": Case(ManyInputs, (8, 12), shapes=((2, 3, 8, 8), (2, 1, 4, 4))),
    "two outputs": Case(TwoOutputs, (12,), {"stem.0": "output"}),
    "pixel shuffle": Case(Pixels, (8, 4, 6, 10)),
    "spatial attention": Case(SpatialAttention, (12,), {"stem.0": BY_OTHERS}),
    "channel attention": Case(ChannelAttention, (12,), {"stem.0": "read as pixels"}),
    "hard-coded view": Case(HardCodedView, (16,), {"stem": "does not run without"}),
    "zero-padded shortcut": Case(ZeroPaddedShortcut, (8, 12), {"second.0": "constant"}),
    "self-attention": Case(SelfAttention, (12,), {"stem.0": "does not run without"}),
    "data-dependent reshape": Case(DataDependent, (12,), {"stem.0": "picks single maps"}),
    "signals": Case(signals, (8, 10), shapes=((2, 3, 16),)),
    "volumes": Case(volumes, (8, 10), shapes=((2, 1, 6, 6, 6),)),
    "auxiliary head": Case(AuxiliaryHead, (8, 12, 6), scripts=False),
    "padded": Case(Padded, (8, 10, 12)),
    "u-net": Case(UNet, (8, 12, 10)),
    "weight norm": Case(weight_normed, (12,), NORMED, scripts=False),
    "weight norm by hook": Case(weight_normed_by_hook, (12,), NORMED),
    "uneven split": Case(UnevenSplit, (4,), {"stem.0": "uneven part"}),
    "squeezed": Case(Squeezed, (8, 12)),
    "written into zeros": Case(WrittenInto, (12,), {"stem.0": "does not run without"}),
    "float32 inside": Case(SinglePrecisionInside, (8, 12)),
    "unfolded": Case(Unfolded, (8, 10)),
}
