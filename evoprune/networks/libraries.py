"""Classification networks of torchvision and timm by name, with fresh or pretrained weights."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evoprune.config.choices import TIMM, TORCHVISION
from evoprune.errors import NetworkError, type_and_first_line

_WITH_AUXILIARY = ("googlenet", "inception_v3")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class GreyToColour(nn.Module):
    """Repeats the channel of grey images three times, for networks that read colour images."""

    def forward(self, images: Tensor) -> Tensor:
        """images: (batch, 1, h, w). Returns (batch, 3, h, w)."""
        return images.repeat(1, 3, 1, 1)  # (batch, 1, h, w) -> (batch, 3, h, w)


def library_network(network: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network of a library, initialised from PyTorch's global generator.

    Args:
        network: `torchvision:NAME` or `timm:NAME`.
        image_shape: (c, h, w). For grey images, a `GreyToColour` in front repeats them to three channels.
        classes: the number of outputs.

    Raises:
        NetworkError: if the library has no such network, or is not installed.
    """
    library, name = _found(network)
    channels = image_shape[0] if image_shape[0] != 1 else 3
    model = library.make(name, channels, classes)
    if image_shape[0] == 1:
        return nn.Sequential(OrderedDict(colour=GreyToColour(), network=model))
    return model


def pretrained_weights(network: str) -> dict[str, Tensor]:
    """The state dict of a library's default weights for a network, downloaded unless its cache has it.

    Its names lack the prefix `network.` of a network behind a `GreyToColour`, its classifier has the classes that it
    was trained for, and auxiliary classifiers for training are left out, as in the network.

    Args:
        network: `torchvision:NAME` or `timm:NAME`.

    Raises:
        NetworkError: if there are no such weights or they cannot be downloaded.
    """
    library, name = _found(network)
    return library.pretrained(name)


def check_torchvision_name(name: str) -> None:
    """Raises NetworkError, with the nearest name, if torchvision has no classification network of this name."""
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise NetworkError(
            f"model.network: torchvision has no classification network {name!r}; "
            f"{nearest(name, known)}torchvision.models.list_models() lists them"
        )


def nearest(name: str, known: Sequence[str]) -> str:
    """`the nearest is ...; ` for an unknown name; empty if none is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"the nearest is {matches[0]}; " if matches else ""


class _Library(NamedTuple):
    """check: raises NetworkError for an unknown name. make: of name, channels and classes. pretrained: of a name."""

    check: Callable[[str], None]
    make: Callable[[str, int, int], nn.Module]
    pretrained: Callable[[str], dict[str, Tensor]]


def _found(network: str) -> tuple[_Library, str]:
    """The library and the network's name in it, checked."""
    prefix = next(prefix for prefix in _LIBRARIES if network.startswith(prefix))
    library, name = _LIBRARIES[prefix], network.removeprefix(prefix)
    library.check(name)
    return library, name


def _from_torchvision(name: str, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    # these two have auxiliary classifiers for training, with which they would return several outputs
    auxiliary = {"aux_logits": False, "init_weights": True} if name in _WITH_AUXILIARY else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **auxiliary)
    return model


def _pretrained_of_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision import models

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


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise NetworkError(f"model.network: {TIMM}NAME needs the package timm; pip install 'evoprune[timm]'") from error
    return timm


def _check_timm_name(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name):
        raise NetworkError(
            f"model.network: timm has no network {name!r}; {nearest(name, timm.list_models())}"
            "timm.list_models() lists them"
        )


def _from_timm(name: str, channels: int, classes: int) -> nn.Module:
    try:
        model: nn.Module = _timm().create_model(name, pretrained=False, in_chans=channels, num_classes=classes)
    except Exception as error:
        raise NetworkError(
            f"model.network: timm cannot build {name!r} for images of {channels} channels and {classes} classes "
            f"({type_and_first_line(error)}); take another network"
        ) from error
    return model


def _pretrained_of_timm(name: str) -> dict[str, Tensor]:
    timm = _timm()
    found = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if found is None or not found.has_weights:
        raise NetworkError(
            f"model.weights: timm has no pretrained weights of {name!r}; timm.list_pretrained() lists networks that "
            "have some"
        )
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:
        place = f"https://huggingface.co/{found.hf_hub_id}" if found.hf_hub_id else found.url
        raise NetworkError(
            f"model.weights: the pretrained weights of {TIMM}{name} cannot be downloaded "
            f"({type_and_first_line(error)}); get the file from {place} and name it in model.weights"
        ) from error


_LIBRARIES = {
    TORCHVISION: _Library(check_torchvision_name, _from_torchvision, _pretrained_of_torchvision),
    TIMM: _Library(_check_timm_name, _from_timm, _pretrained_of_timm),
}
