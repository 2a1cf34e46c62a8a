"""Weights from files: state dicts, and the checkpoints in which training tools wrap them."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evoprune.errors import NetworkError, is_utf8, type_and_first_line

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
_AVERAGED = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
_AVERAGED_COUNT = "n_averaged"
_COMPILED = "_orig_mod."
_PACKED = "_packed_params"
_NAMES_IN_MESSAGES = 5

_logger = logging.getLogger(__name__)


def read_weights(path: Path, model: nn.Module | None = None, *, averaged: bool = False) -> dict[str, Tensor]:
    """Reads a safetensors file, or a state dict that torch.save wrote, on the CPU.

    The ways in which training tools wrap a state dict are recognised, with a warning that says so: a checkpoint that
    holds it under a usual name (`state_dict`, `model`, ...), a prefix that all of the model's tensors have in common
    (`module.`, or the attribute of a Lightning module, beside which there may be other tensors), and `_orig_mod.` of
    compiled modules. torch.load runs with weights_only=True, which carries out no code of the file.

    Args:
        path: `~` at its start is the home folder.
        model: the network that the weights are for; None: names stay as they are.
        averaged: whether to take the average of the weights (EMA) beside the weights, as timm, Lightning and
            `torch.optim.swa_utils` write it. Without it, an average is taken only if there are no other weights.

    Returns:
        Tensors by name, all of them dense and finite.

    Raises:
        NetworkError: if the file is missing, damaged, has no average though one is asked for, or holds anything but
            such tensors.
    """
    path = Path(os.path.expanduser(path))  # unlike pathlib, os.path raises nothing for names that no file can have
    if not is_utf8(str(path)):
        raise NetworkError(f"model.weights: {path} must be a path in UTF-8; rename the file or its folder")
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
    entry, tensors = _state_dict(content, path, averaged)
    _check_values(tensors, f"model.weights: {path}")
    is_average = entry in _AVERAGED or _AVERAGED_COUNT in tensors
    own = None if model is None else model.state_dict()
    prefix = "" if own is None else _prefix(tensors, own, prefers_average=averaged and not is_average)
    if averaged and not is_average and not _is_averaged(prefix):
        found = content if isinstance(content, Mapping) else tensors
        raise NetworkError(
            f"model.ema must be false for {path}, which has no average of the weights (EMA), but {listed(found)}"
        )
    return tensors if own is None else _renamed(tensors, own, prefix, path)


def listed(names: Mapping[str, Any]) -> str:
    """The first few names and the number of others, for messages."""
    shown = ", ".join(map(repr, [*names][:_NAMES_IN_MESSAGES]))
    more = len(names) - _NAMES_IN_MESSAGES
    return f"{shown} and {more} more" if more > 0 else shown or "nothing at all"


def _state_dict(content: Any, path: Path, averaged: bool) -> tuple[str, dict[str, Tensor]]:
    """The named tensors in a file's content, and the name of the entry that they are; "" if they are all of it."""
    if _is_state_dict(content):
        return "", dict(content)
    entries = content if isinstance(content, Mapping) else {}
    names = (*_AVERAGED, *_WRAPPERS) if averaged else (*_WRAPPERS, *_AVERAGED)
    found = [name for name in names if _is_state_dict(entries.get(name))]
    if not found:
        for quantised in (entries, *(entries.get(name) for name in names)):
            _refuse_packed(quantised, path)
        holds = f"the entries {listed(entries)}" if entries else f"a {type(content).__name__}"
        raise NetworkError(
            f"model.weights: {path} must hold named tensors, not {holds[:200]}; "
            "save torch.save(model.state_dict(), path)"
        )
    name, *others = found
    _logger.warning(
        "%s is a checkpoint: its entry %r is taken%s",
        *(path, name, f", and {', '.join(map(repr, others))} not" if others else ""),
    )
    return name, dict(entries[name])


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def _refuse_packed(entries: Any, path: Path) -> None:
    """Raises NetworkError for the state dict of a network that PyTorch has quantised."""
    names = [name for name in entries if isinstance(name, str)] if isinstance(entries, Mapping) else []
    packed = next((name for name in names if _PACKED in name), None)
    if packed is not None:
        raise NetworkError(
            f"model.weights: {path} must hold tensors of floats, not quantised weights ({packed!r}); save the state "
            "dict of the network before it was quantised"
        )


def _check_values(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise NetworkError(
                f"{source}: tensor {name!r} must be dense and not quantised, not {dtype_name(tensor)} in layout "
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


def dtype_name(tensor: Tensor) -> str:
    """The type of a tensor's elements, as int8."""
    return str(tensor.dtype).removeprefix("torch.")


def _prefix(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], *, prefers_average: bool) -> str:
    """The prefix of the network's names in the file: "" if there is none, or it is ambiguous.

    Args:
        prefers_average: whether an average's prefix (`ema_model.`) is taken before others, not after them.
    """
    names = {name.replace(_COMPILED, "") for name in tensors if name in own or name != _AVERAGED_COUNT}
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    if own.keys() & names and not prefers_average:
        return ""
    first = needed[0] if needed else ""
    before = [name.removesuffix(first) for name in sorted(names) if name.endswith(f".{first}") or name == first]
    whole = [prefix for prefix in before if _holds(names, prefix, needed, own)]
    chosen = [prefix for prefix in whole if _is_averaged(prefix) == prefers_average] or whole
    return chosen[0] if len(chosen) == 1 else _common_prefix(names, own)


def _holds(names: set[str], prefix: str, needed: list[str], own: Mapping[str, Tensor]) -> bool:
    """Whether the names that begin as the prefix does are the network's behind it: all that it needs, and no others."""
    top = prefix.partition(".")[0]
    behind = {name.removeprefix(prefix) for name in names if name.partition(".")[0] == top or not prefix}
    return behind.issuperset(needed) and (behind <= own.keys())


def _common_prefix(names: set[str], own: Mapping[str, Tensor]) -> str:
    """The shortest beginning, up to a dot, that all names have and without which some are the network's."""
    prefix = ""
    while not own.keys() & {name.removeprefix(prefix) for name in names}:
        heads = {name.removeprefix(prefix).partition(".")[:2] for name in names}
        if len(heads) != 1 or "" in next(iter(heads)):
            return ""
        prefix += "".join(heads.pop())
    return prefix


def _is_averaged(prefix: str) -> bool:
    return any("ema" in part.split("_") for part in prefix.lower().split("."))


def _renamed(tensors: dict[str, Tensor], own: Mapping[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    """The tensors behind the prefix by the network's names. A warning says how names change and what is left out."""
    kept = {name: tensor for name, tensor in tensors.items() if name in own or name != _AVERAGED_COUNT}
    names = {name: name if name in own and not prefix else name.replace(_COMPILED, "") for name in kept}
    taken = {name: shorter.removeprefix(prefix) for name, shorter in names.items() if shorter.startswith(prefix)}
    if len(set(taken.values())) < len(taken):
        return tensors
    changed = {name: shorter for name, shorter in taken.items() if name != shorter}
    if changed:
        first, shorter = next(iter(changed.items()))
        _logger.warning("%s: tensor %r is taken as the network's %r, and the others likewise", path, first, shorter)
    if left := {name: tensor for name, tensor in kept.items() if name not in taken}:
        _logger.warning("%s: tensors outside of the network are left out: %s", path, listed(left))
    return {taken[name]: tensor for name, tensor in kept.items() if name in taken}
