"""Labels of feature maps, merged while a forward pass is followed if maps can only be removed together."""

import numpy as np
import torch
from torch import Tensor

CONSTANT = 0
"""The label of elements that belong to no feature map: images, constants, positions in a table."""


class MapLabels:
    """Labels of feature maps in classes that can only be removed together (union-find), and the axes they lie along.

    A label is an int > 0. A class of merged labels is one removable part, unless it is frozen: then it stays whole, for
    a reason. An axis is one dimension of a parameter or buffer, with one label per position.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._reasons: dict[int, str] = {}  # root -> reason that its class stays whole
        self.axes: dict[tuple[str, int], Tensor] = {}  # (tensor, dim) -> label of each position

    def copy(self) -> "MapLabels":
        """A copy that can continue independently."""
        other = MapLabels()
        other._parent, other._reasons, other.axes = self._parent.copy(), dict(self._reasons), dict(self.axes)
        return other

    def with_new_axes(self, other: "MapLabels") -> "MapLabels":
        """These labels with the axes that only `other`, a continued copy, has.

        The classes of these labels and their reasons stay as they are; only new labels are merged as in `other`.
        """
        known, result = len(self._parent), self.copy()
        roots = other.resolve(torch.arange(known, len(other._parent)))
        old_roots = self.resolve(roots.clamp(max=known - 1))
        result._parent = np.concatenate((self._parent, torch.where(roots < known, old_roots, roots).numpy()))
        result._reasons |= {root: reason for root, reason in other._reasons.items() if root >= known}
        result.axes |= {place: axis for place, axis in other.axes.items() if place not in self.axes}
        return result

    def new(self, count: int) -> Tensor:
        """New labels, each in a class of its own: int64 (count,)."""
        first = len(self._parent)
        self._parent = np.concatenate((self._parent, np.arange(first, first + count)))
        return torch.arange(first, first + count)

    def bind(self, tensor: str, dim: int, labels: Tensor, reason: str) -> None:
        """Gives the positions along a tensor's dimension these labels, int64 (size,).

        If the axis has labels already (a parameter that is used twice), they are merged with these, as in `merge`.
        """
        if (tensor, dim) in self.axes:
            self.merge(self.axes[tensor, dim], labels, reason)
        else:
            self.axes[tensor, dim] = labels.clone()

    def resolve(self, labels: Tensor) -> Tensor:
        """The class of each label, as the class's smallest label. int64, any shape; returns the same shape."""
        return torch.from_numpy(self._parent)[without_repeats(labels)].expand(labels.shape)

    def merge(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Merges the labels of `a` and `b` at equal places; labels that meet a constant are frozen, for `reason`.

        a, b: int64, shapes that broadcast.
        """
        a, b = torch.broadcast_tensors(without_repeats(self.resolve(a)), without_repeats(self.resolve(b)))
        different = a != b
        if not different.any():
            return
        pairs = torch.unique(a[different] * len(self._parent) + b[different])  # each pair as one number
        for one, other in (divmod(pair, len(self._parent)) for pair in pairs.tolist()):
            if CONSTANT in (one, other):
                self._reasons.setdefault(self._root(one + other), reason)
            else:
                self._join(self._root(one), self._root(other))
        self._compress()

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Keeps the classes of these labels whole; the first reason stays. labels: int64, any shape."""
        for root in torch.unique(without_repeats(self.resolve(labels))).tolist():
            if root != CONSTANT:
                self._reasons.setdefault(root, reason)

    def reason(self, root: int) -> str | None:
        """The reason that a class stays whole; None if it can be removed."""
        return self._reasons.get(root)

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            label = int(self._parent[label])
        return label

    def _join(self, one: int, other: int) -> None:
        if one == other:
            return
        one, other = min(one, other), max(one, other)
        self._parent[other] = one
        if other in self._reasons:
            self._reasons.setdefault(one, self._reasons.pop(other))

    def _compress(self) -> None:
        while not np.array_equal(shorter := self._parent[self._parent], self._parent):
            self._parent = shorter


def without_repeats(labels: Tensor) -> Tensor:
    """An expanded tensor without its repeats: size 1 along dimensions whose elements share memory."""
    for dim, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def stored_once(labels: Tensor) -> Tensor:
    """The same labels, stored once along each dimension in which they do not differ."""
    shape, varying = labels.shape, varying_dims(labels)
    for dim, size in enumerate(shape):
        if dim not in varying and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)


def labels_along(labels: Tensor, dim: int) -> Tensor:
    """The labels along one dimension, at position 0 of all others: int64 (size,)."""
    return labels[tuple(slice(None) if other == dim else 0 for other in range(labels.ndim))]


def is_constant(labels: Tensor) -> bool:
    """Whether no element belongs to a feature map."""
    return not bool((without_repeats(labels) != CONSTANT).any())


def varying_dims(labels: Tensor) -> list[int]:
    """Dimensions along which labels differ. labels: int64, resolved, any shape."""
    labels = without_repeats(labels)
    return [
        dim for dim, size in enumerate(labels.shape) if size > 1 and bool((labels != labels.narrow(dim, 0, 1)).any())
    ]
