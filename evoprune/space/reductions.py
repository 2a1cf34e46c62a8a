"""Reductions over maps in a masked network: they run over the maps that stay, as in the compacted network."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from evoprune.space.outside_tensors import kept
from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Plan

REDUCTIONS = frozenset(
    {"mean", "sum", "nansum", "amax", "amin", "max", "min", "aminmax", "std", "var", "std_mean", "var_mean", "prod"}
    | {"any", "all", "count_nonzero", "argmax", "argmin", "logsumexp", "norm", "linalg_vector_norm"}
)
"""Operations that take the elements along some dimensions together."""

SOFTMAX = frozenset({"_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax"})

NORMS = frozenset({"native_layer_norm", "native_group_norm"})

COUNTED = REDUCTIONS | SOFTMAX | NORMS
"""Operations whose calls are counted, so that a reduction is found again."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The maps that a reduction runs over. positions: int64, of `size` maps along dimension `dim`."""

    dim: int
    positions: Tensor
    size: int

    def of(self, values: Tensor) -> Tensor | None:
        """Positions along the dimension of a tensor, each place of a map included; None if it has other maps."""
        places, rest = divmod(values.shape[self.dim], self.size)
        if rest or not places:
            return None
        positions = self.positions.to(values.device)
        return (positions[:, None] * places + torch.arange(places, device=values.device)).reshape(-1)


def reduce_over_kept(model: nn.Module, space: Plan, phenotype: Phenotype) -> None:
    """Lets all reductions over maps of a masked network run over the maps that stay, by hooks, in place.

    Gradients are those of reductions over all maps.
    """
    found = {}
    for reduction in space.reductions:
        positions = kept(reduction.gene, phenotype.genome)
        if len(positions) < len(reduction.gene):
            place = (reduction.module, reduction.operation, reduction.call)
            found[place] = Kept(reduction.dim, torch.from_numpy(positions), len(reduction.gene))
    if not found:
        return
    mode = ReducingOverKept(found)
    for name, module in model.named_modules():
        module.register_forward_pre_hook(partial(mode.enter, name))
        module.register_forward_hook(mode.leave, always_call=True)


class ReducingOverKept(TorchDispatchMode):
    """Computes reductions over the maps that stay, while a network runs.

    Args:
        found: (module, operation, call) of each reduction, as of `Reduction` -> the maps that stay.
    """

    def __init__(self, found: Mapping[tuple[str, str, int], Kept]) -> None:
        super().__init__()
        self._found = found
        self._where: list[str] = []
        self._calls: Counter[tuple[str, str]] = Counter()

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pre-hook of the module with this name."""
        if not self._where:
            self._calls.clear()
            self.__enter__()
        self._where.append(name)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook of each module."""
        self._where.pop()
        if not self._where:
            self.__exit__(None, None, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name in COUNTED:
            place = (self._where[-1], name)
            kept = self._found.get((*place, self._calls[place]))
            self._calls[place] += 1
            positions = kept.of(args[0]) if kept is not None else None
            if kept is not None and positions is not None:
                return _over(name, kept.dim, positions, partial(func, **kwargs), args)
        elif torch.is_inference_mode_enabled():  # operations made of others arrive here whole
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


def _over(name: str, dim: int, positions: Tensor, function: Callable[..., Any], args: tuple) -> Any:
    """A reduction over some positions along a dimension; outputs that have the dimension are zero elsewhere."""
    values = args[0]

    def taken(tensor: Tensor | None, along: int) -> Tensor | None:
        return None if tensor is None else tensor.index_select(along, positions)

    chosen = values.index_select(dim, positions)
    if name in REDUCTIONS:
        return function(chosen, *args[1:])
    if name == "native_layer_norm":
        _, shape, weight, bias, *rest = args
        own = dim - (values.ndim - len(shape))
        shape = [*shape[:own], len(positions), *shape[own + 1 :]]
        results = function(chosen, shape, taken(weight, own), taken(bias, own), *rest)
    elif name == "native_group_norm":
        _, weight, bias, batch, _, *rest = args
        results = function(chosen, taken(weight, 0), taken(bias, 0), batch, len(positions), *rest)
    else:
        results = function(chosen, *args[1:])
    spread = partial(_spread, dim, positions, chosen.shape, values)
    return tree_map(spread, results)


def _spread(dim: int, positions: Tensor, shape: torch.Size, values: Tensor, result: Any) -> Any:
    """Results of the chosen positions at their places, zero elsewhere; results of another shape as they are."""
    if not isinstance(result, Tensor) or result.shape != shape:
        return result
    return torch.zeros_like(values, dtype=result.dtype).index_copy(dim, positions, result)
