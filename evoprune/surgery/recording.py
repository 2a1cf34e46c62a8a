"""What modules are given in a forward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def recorded(network: nn.Module, names: Iterable[str], inputs: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """What each of these modules is given first in a forward pass on `inputs`, in the order in which they run."""
    found: dict[str, tuple[Any, ...]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if name not in found:  # copies, for what follows may work in place
                found[name] = tuple(value.clone() if isinstance(value, Tensor) else value for value in args)

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(record(name)) for name in names]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
