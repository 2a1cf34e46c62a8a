"""Weights into networks: all of them, or all but those of a new last layer."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evoprune.errors import NetworkError
from evoprune.networks.modes import eval_mode
from evoprune.networks.weight_files import dtype_name, listed

_SAME = "the weights must be of the same network"

_logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str, remedy: str = _SAME) -> None:
    """Copies the tensors into the model's parameters and buffers; names and shapes must be the model's.

    Batch norm's number of batches may be missing.

    Args:
        model: changed in place.
        tensors: by name.
        source: their origin, for messages.
        remedy: what to do if they are not the model's, for messages.

    Raises:
        NetworkError: names the first tensor that does not fit, before anything is copied.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):
                continue
            raise NetworkError(
                f"{source}: has no tensor {name!r}, which the network needs, but {listed(tensors)}; {remedy}"
            )
        given = tensors[name]
        if given.shape != tensor.shape:
            raise NetworkError(
                f"{source}: tensor {name!r} has shape {tuple(given.shape)}, "
                f"but the network's has {tuple(tensor.shape)}; {remedy}"
            )
        if tensor.is_floating_point() and not given.is_floating_point():
            raise NetworkError(
                f"{source}: tensor {name!r} must be of floats, as the network's, not {dtype_name(given)}; "
                "give weights that are not quantised"
            )
    unknown = next((name for name in tensors if name not in own), None)
    if unknown is not None:
        raise NetworkError(f"{source}: has a tensor {unknown!r}, which the network lacks; {remedy}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def load_with_new_head(model: nn.Module, tensors: Mapping[str, Tensor], images: Tensor, source: str) -> None:
    """Loads weights that were trained for other classes, so that only the network's last layer is not trained.

    Tensors of the last layer that the file lacks, or has in another shape, stay as the network has them; a warning
    names them. All others must fit.

    Args:
        model: freshly initialised; changed in place.
        tensors: by name.
        images: (n, c, h, w), which the model can read.
        source: the tensors' origin, for messages.

    Raises:
        NetworkError: as `load_weights`.
    """
    own, head = model.state_dict(), _last_layer(model, images)
    mine = [name for name in own if name.rpartition(".")[0] == head]
    new = [name for name in mine if name not in tensors or tensors[name].shape != own[name].shape]
    remedy = f"the weights must be of the same network, but for its last layer ({head})"
    load_weights(model, {**tensors, **{name: own[name].clone() for name in new}}, source, remedy)
    if new:
        changes = [f"{name!r} {_shape(tensors.get(name))} becomes {_shape(own[name])}" for name in new]
        _logger.warning("%s: the last layer starts anew, for other classes: %s", source, ", ".join(changes))
    else:
        _logger.warning("%s: the last layer fits the network as it is, so nothing starts anew", source)


def _last_layer(model: nn.Module, images: Tensor) -> str:
    """The name of the layer with a weight of two dimensions or more that runs last."""
    names = {module: name for name, module in model.named_modules() if _is_layer(module)}
    ran: list[str] = []
    handles = [module.register_forward_hook(lambda module, _, __: ran.append(names[module])) for module in names]
    try:
        with torch.no_grad(), eval_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else ""


def _is_layer(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2


def _shape(tensor: Tensor | None) -> str:
    return "(missing)" if tensor is None else str(tuple(tensor.shape))
