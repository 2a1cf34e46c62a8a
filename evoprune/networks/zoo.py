"""Networks by layer string, by a name of the zoo, from torchvision, or from the user's own module."""

import difflib
import inspect
import re
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.errors import NetworkError, type_and_first_line
from evoprune.networks import mobilenet, resnet
from evoprune.networks.layer_string import build_layers, parse_layer_string
from evoprune.networks.modes import eval_mode
from evoprune.networks.seeding import global_seed
from evoprune.plugins.guard import is_own
from evoprune.plugins.kinds import NETWORKS
from evoprune.plugins.user_code import import_callable, user_code

TORCHVISION = "torchvision:"
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_LAYER_STRING = re.compile(r"\d|MP\d")

__all__ = ["NETWORKS", "build_network", "mobilenet", "resnet"]  # importing the last two registers their networks


class GreyToColour(nn.Module):
    """Repeats the channel of grey images three times, for networks that read colour images."""

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, 1, h, w). Returns (batch, 3, h, w)."""
        return images.repeat(1, 3, 1, 1)  # (batch, 1, h, w) -> (batch, 3, h, w)


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
            would keep the maps that they pad whole). `torchvision:NAME`; for grey images, a `GreyToColour` in front
            repeats them to three channels. `module:attribute`, called with those of the keyword arguments `classes` and
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


def pretrained_weights(name: str) -> dict[str, Tensor]:
    """The state dict of torchvision's default weights for `name`, downloaded unless PyTorch's cache has it.

    Its names lack the prefix `network.` of a network behind a `GreyToColour`, its classifier has ImageNet's 1,000
    classes, and auxiliary classifiers for training are left out, as in the network.

    Raises:
        NetworkError: if there are no such weights or they cannot be downloaded.
    """
    from torchvision import models

    check_torchvision_name(name)
    weights = models.get_model_weights(name).DEFAULT
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise NetworkError(
            f"model.weights: the pretrained weights of {TORCHVISION}{name} cannot be downloaded "
            f"({type_and_first_line(error)}); get {weights.url} and put it into {folder}"
        ) from error
    auxiliary = _AUXILIARY if name in _WITH_AUXILIARY else ()
    return {tensor: value for tensor, value in tensors.items() if not tensor.startswith(auxiliary)}


def _construct(network: str, image_shape: tuple[int, int, int], classes: int | None) -> nn.Module:
    if is_own(network) and not network.startswith(TORCHVISION):
        return _from_callable(network, image_shape, classes)
    if _LAYER_STRING.match(network) and classes is None:
        return build_layers(parse_layer_string(network), image_shape, None)
    if classes is None:
        raise NetworkError(
            f"model.network: {network!r} needs the number of classes, which data without labels do not tell; take a "
            "layer string or module:attribute"
        )
    if network.startswith(TORCHVISION):
        return _from_torchvision(network.removeprefix(TORCHVISION), image_shape, classes)
    if network in NETWORKS.names:
        model: nn.Module = NETWORKS.find(network)(classes, image_shape)
        return model
    if _LAYER_STRING.match(network):
        return build_layers(parse_layer_string(network), image_shape, classes)
    raise NetworkError(
        f"model.network: there is no network {network!r}; {_nearest(network, NETWORKS.names)}or write a layer string "
        "such as 16C5-MP2-64FC-10, torchvision:NAME or module:attribute; `evoprune list networks` lists the names"
    )


def _nearest(name: str, known: Any) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"the nearest is {matches[0]}; " if matches else ""


def check_torchvision_name(name: str) -> None:
    """Raises NetworkError, with the nearest name, if torchvision has no classification network of this name."""
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise NetworkError(
            f"model.network: torchvision has no classification network {name!r}; "
            f"{_nearest(name, known)}torchvision.models.list_models() lists them"
        )


def _from_torchvision(name: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    from torchvision import models

    check_torchvision_name(name)
    # These two have auxiliary classifiers for training, with which they would return several outputs.
    auxiliary = {"aux_logits": False, "init_weights": True} if name in _WITH_AUXILIARY else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **auxiliary)
    if image_shape[0] == 1:
        return nn.Sequential(OrderedDict(colour=GreyToColour(), network=model))
    return model


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
