"""Networks by layer string, by a name of the zoo, from a library, or from the user's own module."""

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.config.choices import LIBRARIES
from evoprune.errors import NetworkError
from evoprune.networks import mobilenet, resnet
from evoprune.networks.layer_string import build_layers, parse_layer_string
from evoprune.networks.libraries import library_network, nearest
from evoprune.networks.modes import eval_mode
from evoprune.networks.seeding import global_seed
from evoprune.plugins.guard import is_own
from evoprune.plugins.kinds import NETWORKS
from evoprune.plugins.user_code import import_callable, user_code

_LAYER_STRING = re.compile(r"\d|MP\d")

__all__ = ["NETWORKS", "build_network", "mobilenet", "resnet"]  # importing the last two registers their networks


def build_network(
    network: str,
    image_shape: tuple[int, int, int],
    classes: int | None,
    generator: torch.Generator,
    *,
    classifies: bool = True,
) -> nn.Module:
    """Builds the network that `model.network` names, freshly initialised from `generator` alone.

    Args:
        network: one of four kinds. A layer string (`16C5-MP2-10`). A name in `NETWORKS`: mobilenetv2_small, and the
            ResNets of He et al. for small images with 1x1 convolutions as shortcuts (option B; zero-padded shortcuts
            would keep the maps that they pad whole). `torchvision:NAME` or `timm:NAME`
            (`library_network`). `module:attribute`, called with those of the keyword arguments `classes` and
            `image_shape` that its signature names.
        image_shape: (c, h, w).
        classes: the number of outputs; None if the data do not tell.
        generator: on the CPU.
        classifies: whether the outputs must be logits (batch, classes).

    Returns:
        A network that maps float (batch, c, h, w) to outputs.

    Raises:
        NetworkError: if there is no such network or it does not fit the images and classes.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with global_seed(seed):
        model = _construct(network, image_shape, classes)
        _check_fits(model, network, image_shape, classes, classifies)
    return model


def _construct(network: str, image_shape: tuple[int, int, int], classes: int | None) -> nn.Module:
    if is_own(network) and not network.startswith(LIBRARIES):
        return _from_callable(network, image_shape, classes)
    if _LAYER_STRING.match(network) and classes is None:
        return build_layers(parse_layer_string(network), image_shape, None)
    if classes is None:
        raise NetworkError(
            f"model.network: {network!r} needs the number of classes, which data without labels do not tell; take a "
            "layer string or module:attribute"
        )
    if network.startswith(LIBRARIES):
        return library_network(network, image_shape, classes)
    if network in NETWORKS.names:
        model: nn.Module = NETWORKS.find(network)(classes, image_shape)
        return model
    if _LAYER_STRING.match(network):
        return build_layers(parse_layer_string(network), image_shape, classes)
    raise NetworkError(
        f"model.network: there is no network {network!r}; {nearest(network, NETWORKS.names)}or write a layer string "
        "such as 16C5-MP2-64FC-10, torchvision:NAME, timm:NAME or module:attribute; `evoprune list networks` lists "
        "the names"
    )


def _from_callable(reference: str, image_shape: tuple[int, int, int], classes: int | None) -> nn.Module:
    make = import_callable(reference, "model.network", NetworkError)
    offered: dict[str, Any] = {"image_shape": image_shape} | ({} if classes is None else {"classes": classes})
    remedy = "its arguments can be `classes` and `image_shape`, if its signature names them, and no others"
    with user_code(f"model.network: {reference!r} failed when called", remedy, NetworkError):
        named = inspect.signature(make).parameters
        model = make(**{name: value for name, value in offered.items() if name in named})
    if not isinstance(model, nn.Module):
        raise NetworkError(
            f"model.network: {reference!r} returned a {type(model).__name__}; it must return a torch Module"
        )
    return model


def _check_fits(
    model: nn.Module, network: str, image_shape: tuple[int, int, int], classes: int | None, classifies: bool
) -> None:
    """Runs the network on an image of zeros: it must read the images and, to classify, give a logit for each class."""
    shape = "x".join(map(str, image_shape))
    remedy = "take another network or images of another size"
    reading = user_code(f"model.network: {network!r} cannot read images of {shape}", remedy, NetworkError)
    with reading, torch.no_grad(), eval_mode(model):
        logits = model(torch.zeros(1, *image_shape))
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if classifies and classes is not None and found != (1, classes):
        raise NetworkError(
            f"model.network: {network!r} gives {found} for one image; it must give one logit for each of "
            f"the {classes} classes: (1, {classes})"
        )
