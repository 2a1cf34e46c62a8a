"""Which parts of a network can only go together, as labels that are merged while a forward pass is followed."""

import numpy as np
import torch
from torch import Tensor

CONSTANT = 0
"""The label of what no feature map carries: images, constants, positions in a table."""


class Labels:
    """Labels of feature maps, merged where they can only go together (union-find), and the axes they lie along.

    A label is an int > 0. A class of merged labels is one removable part, unless it is frozen: then it
    stays whole, for a reason. An axis is one dimension of a parameter or buffer, with a label a position.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._reasons: dict[int, str] = {}  # root -> why its class stays whole
        self.axes: dict[tuple[str, int], Tensor] = {}  # (tensor, dim) -> label of each position

    def new(self, count: int) -> Tensor:
        """Fresh labels, each a class of its own. Returns int64 (count,)."""
        first = len(self._parent)
        self._parent = np.concatenate((self._parent, np.arange(first, first + count)))
        return torch.arange(first, first + count)

    def bind(self, tensor: str, dim: int, labels: Tensor, reason: str) -> None:
        """Positions along a tensor's dimension go with these labels. labels: int64 (size,).

        An axis met before has its labels merged with these (a parameter that is used twice).
        """
        if (tensor, dim) in self.axes:
            self.merge(self.axes[tensor, dim], labels, reason)
        else:
            self.axes[tensor, dim] = labels.clone()

    def resolve(self, labels: Tensor) -> Tensor:
        """Each label's class. int64, any shape; returns the same shape."""
        return torch.from_numpy(self._parent)[essence(labels)].expand(labels.shape)

    def merge(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Labels of `a` and `b` at the same place can only go together; with a constant they stay, for `reason`.

        a, b: int64, shapes that broadcast.
        """
        a, b = torch.broadcast_tensors(essence(self.resolve(a)), essence(self.resolve(b)))
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
        """These labels' classes stay whole. labels: int64, any shape."""
        for root in torch.unique(essence(self.resolve(labels))).tolist():
            if root != CONSTANT:
                self._reasons.setdefault(root, reason)

    def reason(self, root: int) -> str | None:
        """Why a class stays whole; None where it may go."""
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


def essence(labels: Tensor) -> Tensor:
    """An expanded tensor without its repeats: size 1 along dimensions whose elements are one in memory."""
    for dim, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def condensed(labels: Tensor) -> Tensor:
    """The same labels, stored once along every dimension in which they do not differ."""
    shape, varying = labels.shape, varying_dims(labels)
    for dim, size in enumerate(shape):
        if dim not in varying and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)


def line(labels: Tensor, dim: int) -> Tensor:
    """The labels along one dimension, at the first place of all others. Returns int64 (size,)."""
    return labels[tuple(slice(None) if other == dim else 0 for other in range(labels.ndim))]


def is_constant(labels: Tensor) -> bool:
    """Whether nothing in here belongs to a feature map."""
    return not bool((essence(labels) != CONSTANT).any())


def varying_dims(labels: Tensor) -> list[int]:
    """Dimensions along which labels differ. labels: int64, resolved, any shape."""
    labels = essence(labels)
    return [
        dim for dim, size in enumerate(labels.shape) if size > 1 and bool((labels != labels.narrow(dim, 0, 1)).any())
    ]
