"""Weights from files, and into networks."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evoprune.errors import NetworkError, type_and_first_line

_REMEDY = "the weights must be of the same network"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
_AVERAGED = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
_COMPILED = "_orig_mod."
_NAMES_IN_MESSAGES = 5

_logger = logging.getLogger(__name__)


def read_weights(path: Path, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Reads a safetensors file, or a state dict that torch.save wrote, on the CPU.

    A checkpoint that holds the state dict under a usual name (`state_dict`, `model`, ...) is recognised, with a warning
    that says so; an average of the weights (`ema`) is taken only if there are no others. Likewise, a prefix that all
    names have in common but the model's have not (`module.`), and `_orig_mod.` of compiled modules, are left out.
    torch.load runs with weights_only=True, which carries out no code of the file.

    Args:
        path: `~` at its start is the home folder.
        model: the network that the weights are for; None: names stay as they are.

    Returns:
        Tensors by name, all of them dense and finite.

    Raises:
        NetworkError: if the file is missing, damaged, or holds anything but such tensors.
    """
    path = Path(os.path.expanduser(path))  # unlike pathlib, os.path raises nothing for names that no file can have
    if not os.path.isfile(path):
        raise NetworkError(f"model.weights: there is no file {path}; give a safetensors or a state dict file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise NetworkError(
            f"model.weights: {path} holds no weights that can be read safely ({type_and_first_line(error)}); "
            "save a safetensors file, or torch.save(model.state_dict(), path)"
        ) from error
    tensors = _state_dict(content, path)
    _check_values(tensors, f"model.weights: {path}")
    return _renamed(tensors, model.state_dict(), path) if model is not None else tensors


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies the tensors into the model's parameters and buffers; names and shapes must be the model's.

    Batch norm's number of batches may be missing.

    Args:
        model: changed in place.
        tensors: by name.
        source: their origin, for messages.

    Raises:
        NetworkError: names the first tensor that does not fit, before anything is copied.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):
                continue
            raise NetworkError(
                f"{source}: has no tensor {name!r}, which the network needs, but {_listed(tensors)}; {_REMEDY}"
            )
        given = tensors[name]
        if given.shape != tensor.shape:
            raise NetworkError(
                f"{source}: tensor {name!r} has shape {tuple(given.shape)}, "
                f"but the network's has {tuple(tensor.shape)}; {_REMEDY}"
            )
        if tensor.is_floating_point() and not given.is_floating_point():
            raise NetworkError(
                f"{source}: tensor {name!r} must be of floats, as the network's, not {_dtype(given)}; "
                "give weights that are not quantised"
            )
    unknown = next((name for name in tensors if name not in own), None)
    if unknown is not None:
        raise NetworkError(f"{source}: has a tensor {unknown!r}, which the network lacks; {_REMEDY}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors in a file's content, which may be the content itself or one of its entries."""
    if _is_state_dict(content):
        return dict(content)
    entries = content if isinstance(content, Mapping) else {}
    name = next((name for name in (*_WRAPPERS, *_AVERAGED) if _is_state_dict(entries.get(name))), None)
    if name is None:
        found = f"the entries {', '.join(map(repr, entries))}" if entries else f"a {type(content).__name__}"
        raise NetworkError(
            f"model.weights: {path} must hold named tensors, not {found[:200]}; "
            "save torch.save(model.state_dict(), path)"
        )
    others = [other for other in (*_WRAPPERS, *_AVERAGED) if other != name and _is_state_dict(entries.get(other))]
    _logger.warning(
        "%s is a checkpoint: its entry %r is taken%s",
        *(path, name, f", and {', '.join(map(repr, others))} not" if others else ""),
    )
    return dict(entries[name])


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def _check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise NetworkError(
                f"{source}: tensor {name!r} must be dense and not quantised, not {_dtype(tensor)} in layout "
                f"{str(tensor.layout).removeprefix('torch.')}; save the network's own state dict"
            )
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise NetworkError(
                f"{source}: tensor {name!r} of shape {tuple(tensor.shape)} repeats its numbers; save contiguous tensors"
            )
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise NetworkError(
                f"{source}: tensor {name!r} must be finite numbers, but some are NaN or infinite; take weights from "
                "before training failed"
            )


def _renamed(tensors: dict[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by the network's names, if these differ only by a common prefix or the mark of compiled modules."""
    names = {name: name if name in own else name.replace(_COMPILED, "") for name in tensors}
    while not own.keys() & set(names.values()):
        prefixes = {name.partition(".")[0] for name in names.values()}
        if len(prefixes) != 1 or not all("." in name for name in names.values()):
            return tensors
        names = {name: shorter.partition(".")[2] for name, shorter in names.items()}
    changed = {name: shorter for name, shorter in names.items() if name != shorter}
    if not changed or len(set(names.values())) < len(names):
        return tensors
    first, shorter = next(iter(changed.items()))
    _logger.warning("%s: tensor %r is taken as the network's %r, and the others likewise", path, first, shorter)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _listed(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)
    listed = ", ".join(map(repr, names[:_NAMES_IN_MESSAGES]))
    more = len(names) - _NAMES_IN_MESSAGES
    return f"{listed} and {more} more" if more > 0 else listed or "no tensor at all"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
