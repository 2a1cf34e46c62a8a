"""Networks of libraries with random weights, by name, and the example input that each one is followed on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.errors import NetworkError

USUAL_SIZE = 224
"""Height and width of the example if torchvision names none for a network's weights."""

SIZE = 128
"""Height and width of the example for networks of timm and segmentation_models_pytorch that read images of any size."""

TIMM = (
    "botnet26t_256", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "cspdarknet53", "cspnext_s",
    "densenet121", "dla34", "dm_nfnet_f0", "dpn48b", "ecaresnet26t", "edgenext_small", "efficientnet_b0",
    "efficientvit_b0", "ese_vovnet19b_dw", "fasternet_s", "fastvit_t8", "fbnetv3_b", "focalnet_tiny_srf",
    "gernet_s", "ghostnet_100", "halonet26t", "hardcorenas_a", "hgnet_tiny", "hrnet_w18_small",
    "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4", "lambda_resnet26t", "lcnet_050",
    "lcnetv2_small", "legacy_seresnet18", "legacy_xception", "mambaout_femto", "mobilenetv3_large_100",
    "mobilenetv4_conv_small", "mobileone_s0", "mobilevit_xxs", "nasnetalarge", "nf_resnet50", "pnasnet5large",
    "poolformer_s12", "rdnet_small", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0", "repvit_m0_9",
    "res2net50_26w_4s", "resnest14d", "resnetv2_50x1_bit", "rexnet_100", "selecsls42", "shvit_s1", "skresnet18",
    "starnet_s1", "tresnet_m", "vgg11_bn", "xception41",
)  # fmt: skip
"""Architectures of timm, one or two of each convolutional family, and hybrids with attention."""

SEGMENTATION = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3Plus", "PAN", "Segformer", "UPerNet",
)  # fmt: skip
"""Architectures of segmentation_models_pytorch, with its default encoder (ResNet-34)."""


@dataclass(frozen=True)
class Library:
    """A library of networks.

    Attributes:
        names: Returns the names of the networks in a table.
        check: Raises NetworkError if the library has no network of a name.
        build: Returns the network of a name, with random weights, and its example input.
    """

    names: Callable[[], tuple[str, ...]]
    check: Callable[[str], None]
    build: Callable[[str], tuple[nn.Module, Tensor]]


def _torchvision_names() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def _check_torchvision(name: str) -> None:
    from evoprune.networks.libraries import check_torchvision_name

    check_torchvision_name(name)


def _torchvision_network(name: str) -> tuple[nn.Module, Tensor]:
    """The network at the smallest input size of torchvision's weights for it."""
    from torchvision import models

    sizes = [weights.transforms().crop_size[0] for weights in models.get_model_weights(name)]
    return models.get_model(name, weights=None), _images(min(sizes, default=USUAL_SIZE))


def _check_timm(name: str) -> None:
    import timm

    if not timm.is_model(name):
        raise NetworkError(f"timm has no network {name!r}; timm.list_models() lists them")


def _timm_network(name: str) -> tuple[nn.Module, Tensor]:
    """The network at 128 pixels, or at the size that it is fixed to, or at the least that it reads."""
    import timm

    network: Any = timm.create_model(name, pretrained=False)
    settings = network.default_cfg
    least = settings["input_size"] if settings.get("fixed_input_size") else settings.get("min_input_size")
    return network, _images(max(SIZE, least[-1] if least else 0))


def _check_segmentation(name: str) -> None:
    if name not in SEGMENTATION:
        raise NetworkError(f"there is no segmentation network {name!r} to choose; there are {', '.join(SEGMENTATION)}")


def _segmentation_network(name: str) -> tuple[nn.Module, Tensor]:
    import segmentation_models_pytorch

    return getattr(segmentation_models_pytorch, name)(encoder_weights=None, classes=21), _images(SIZE)


def _images(size: int) -> Tensor:
    return torch.randn(1, 3, size, size)


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "torchvision": Library(_torchvision_names, _check_torchvision, _torchvision_network),
        "timm": Library(lambda: TIMM, _check_timm, _timm_network),
        "segmentation": Library(lambda: SEGMENTATION, _check_segmentation, _segmentation_network),
    }
)
"""Libraries by the name that `evoprune bench spaces --library` takes."""
