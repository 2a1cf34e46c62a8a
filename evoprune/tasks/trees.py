"""Trees of tensors: a tensor, or a tuple, list, mapping or data class of trees. The first dimension is the example.

Functions return plain trees of tensors, tuples and dicts, whatever classes the given tree is made of.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a tuple, list, mapping or data class of trees; other values are kept as they are."""


def map_tensors(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The tree with each tensor replaced by the function's value for it, and for the tensors of the others there."""
    if isinstance(tree, Tensor):
        return function(tree, *others)
    children = children_of(tree)
    if children is None:
        return tree
    parts = [_checked_children(other, children) for other in others]
    mapped = {key: map_tensors(function, child, *(part[key] for part in parts)) for key, child in children.items()}
    return tuple(mapped.values()) if isinstance(tree, tuple | list) else mapped


def children_of(tree: Tree) -> dict[Any, Any] | None:
    """The children of a tuple, list, mapping or data class by key; None for any other value."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, tuple | list):
        return dict(enumerate(tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        return {field.name: getattr(tree, field.name) for field in fields(tree)}
    return None


def _checked_children(tree: Tree, like: Mapping[Any, Any]) -> dict[Any, Any]:
    children = children_of(tree)
    if children is None or children.keys() != like.keys():
        found = type(tree).__name__ if children is None else f"{list(children)}"
        raise ValueError(f"two trees of tensors must have the same parts, not {list(like)} and {found}")
    return children


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """The tree with each value that is neither None nor a tree of others replaced by the function's value for it."""
    children = children_of(tree)
    if children is None:
        return None if tree is None else function(tree)
    mapped = {key: map_leaves(function, child) for key, child in children.items()}
    return tuple(mapped.values()) if isinstance(tree, tuple | list) else mapped


def leaves_of(tree: Tree) -> list[Any]:
    """All values of a tree that are neither None nor trees of others, in its order."""
    found: list[Any] = []
    map_leaves(found.append, tree)
    return found


def tensors_in(tree: Tree) -> list[Tensor]:
    """All tensors of a tree, in its order."""
    found: list[Tensor] = []
    map_tensors(found.append, tree)
    return found


def example_count(tree: Tree) -> int:
    """The number of examples: the first size of all tensors.

    Raises:
        ValueError: there is no tensor, or the sizes differ.
    """
    sizes = {tuple(tensor.shape[:1]) for tensor in tensors_in(tree)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"tensors must have one first size, the number of examples, not {sorted(sizes)}")
    return int(sizes.pop()[0])


def select(tree: Tree, indices: Tensor | slice) -> Tree:
    """The examples at these positions."""
    return map_tensors(lambda tensor: tensor[indices], tree)


def moved(tree: Tree, device: torch.device) -> Tree:
    """The tree on a device."""
    return map_tensors(lambda tensor: tensor.to(device), tree)


def as_floats(tree: Tree) -> Tree:
    """The tree with float tensors of any precision as float32."""
    return map_tensors(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, tree)


def split(tree: Tree, size: int) -> Iterator[Tree]:
    """Batches of `size` examples; the last one may be smaller."""
    for start in range(0, example_count(tree), size):
        yield select(tree, slice(start, start + size))


def concatenated(trees: Sequence[Tree]) -> Tree:
    """The examples of several trees of the same parts, one after the other."""
    return map_tensors(lambda *tensors: torch.cat(tensors), *trees)


def finite(tree: Tree) -> Tensor:
    """Whether all numbers of an example are finite: bool (n,)."""
    flags = [
        tensor.isfinite().flatten(1).all(1) if tensor.ndim > 1 else tensor.isfinite() for tensor in tensors_in(tree)
    ]
    return torch.stack(flags).all(0) if len(flags) > 1 else flags[0]
