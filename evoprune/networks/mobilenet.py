"""A small MobileNetV2 (Sandler et al. 2018) for images of 28x28 or 32x32 pixels."""

from collections import OrderedDict

from torch import Tensor, nn

from evoprune.networks.resnet import he_initialise
from evoprune.plugins.kinds import network

# Expansion, maps, blocks, stride of the first block: table 2 of the paper, reduced for small images.
_STAGES = ((1, 16, 1, 1), (6, 24, 1, 1), (6, 32, 2, 2), (6, 64, 2, 2))
_STEM_MAPS = 16
_HEAD_MAPS = 256


def _conv_norm(in_maps: int, maps: int, kernel: int, stride: int = 1, groups: int = 1) -> list[tuple[str, nn.Module]]:
    conv = nn.Conv2d(in_maps, maps, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return [("conv", conv), ("norm", nn.BatchNorm2d(maps))]


def _conv_norm_relu(in_maps: int, maps: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(OrderedDict([*_conv_norm(in_maps, maps, kernel, stride, groups), ("relu", nn.ReLU6())]))


class InvertedResidual(nn.Module):
    """A 1x1 convolution to `expansion` times the maps, a 3x3 depthwise convolution, and a 1x1 convolution back.

    The input is added if its shape is that of the output.

    References:
        Sandler et al. 2018, section 3.3.
    """

    def __init__(self, in_maps: int, maps: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_maps * expansion
        self.expand: nn.Module = _conv_norm_relu(in_maps, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_norm_relu(inner, inner, 3, stride, groups=inner)
        self.project = nn.Sequential(OrderedDict(_conv_norm(inner, maps, 1)))
        self.adds_input = stride == 1 and in_maps == maps

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, in_maps, h, w). Returns (batch, maps, h / stride, w / stride)."""
        outputs = self.project(self.depthwise(self.expand(images)))  # (batch, maps, h / stride, w / stride)
        return images + outputs if self.adds_input else outputs


def mobilenetv2_small(channels: int, classes: int) -> nn.Sequential:
    """MobileNetV2 with 4 stages of inverted residuals of 16 to 64 maps: about 17 million MACs for a 28x28 image.

    Weights are drawn from PyTorch's global generator (He initialisation).

    Args:
        channels: of the images.
        classes: the number of outputs.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(stem=_conv_norm_relu(channels, _STEM_MAPS, 3))
    in_maps = _STEM_MAPS
    for stage, (expansion, maps, blocks, first_stride) in enumerate(_STAGES, start=1):
        named: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, blocks + 1):
            stride = first_stride if number == 1 else 1
            named[f"block{number}"] = InvertedResidual(in_maps, maps, stride, expansion)
            in_maps = maps
        modules[f"stage{stage}"] = nn.Sequential(named)
    modules["head"] = _conv_norm_relu(in_maps, _HEAD_MAPS, 1)
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["out"] = nn.Linear(_HEAD_MAPS, classes)
    network = nn.Sequential(modules)
    he_initialise(network)
    return network


@network("mobilenetv2_small")
def make_mobilenetv2_small(classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """A small MobileNetV2 of Sandler et al. for images of 28x28 or 32x32 pixels."""
    return mobilenetv2_small(image_shape[0], classes)
