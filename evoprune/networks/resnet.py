"""The residual networks of He et al. 2016 (section 4.2) for small images."""

from collections import OrderedDict

from torch import Tensor, nn

from evoprune.plugins.kinds import network


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them.

    If the shapes of input and output differ, the shortcut is a 1x1 convolution with batch norm (option B of the paper).
    A shortcut padded with zeros (option A) would tie each map to one of a narrower layer, so that none could be pruned.
    """

    def __init__(self, in_maps: int, maps: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_maps, maps, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(maps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(maps)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_maps != maps:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(in_maps, maps, 1, stride, bias=False),
                    norm=nn.BatchNorm2d(maps),
                )
            )

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, in_maps, h, w). Returns (batch, maps, h / stride, w / stride)."""
        inner = self.relu1(self.norm1(self.conv1(images)))  # (batch, maps, h, w)
        return self.relu2(self.norm2(self.conv2(inner)) + self.shortcut(images))


def small_resnet(depth: int, channels: int, classes: int) -> nn.Sequential:
    """The ResNet of `depth` = 6n + 2 layers for small images: a convolution, 3 stages of n blocks, a classifier.

    The stages have 16, 32 and 64 maps; the second and the third halve height and width.
    Weights are drawn from PyTorch's global generator (He initialisation).

    Args:
        depth: 6n + 2 for a whole n >= 1.
        channels: of the images.
        classes: the number of outputs.

    References:
        He et al. 2016, section 4.2, with shortcuts of option B.
    """
    blocks = (depth - 2) // 6
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        norm1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
    )
    in_maps = 16
    for stage, maps in enumerate((16, 32, 64), start=1):
        names = [f"block{number}" for number in range(1, blocks + 1)]
        strides = [2 if stage > 1 else 1] + [1] * (blocks - 1)
        widths = [in_maps] + [maps] * (blocks - 1)
        modules[f"stage{stage}"] = nn.Sequential(
            OrderedDict(
                (name, BasicBlock(width, maps, stride))
                for name, width, stride in zip(names, widths, strides, strict=True)
            )
        )
        in_maps = maps
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["out"] = nn.Linear(in_maps, classes)
    network = nn.Sequential(modules)
    he_initialise(network)
    return network


def he_initialise(network: nn.Module) -> None:
    """Draws the weights of convolutions from a normal distribution of variance 2 / fan-out (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@network("resnet20")
def resnet20(classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-20 of He et al. for small images, with 1x1 convolutions as shortcuts."""
    return small_resnet(20, image_shape[0], classes)


@network("resnet32")
def resnet32(classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-32 of He et al. for small images, with 1x1 convolutions as shortcuts."""
    return small_resnet(32, image_shape[0], classes)


@network("resnet56")
def resnet56(classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-56 of He et al. for small images, with 1x1 convolutions as shortcuts."""
    return small_resnet(56, image_shape[0], classes)


@network("resnet110")
def resnet110(classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-110 of He et al. for small images, with 1x1 convolutions as shortcuts."""
    return small_resnet(110, image_shape[0], classes)
