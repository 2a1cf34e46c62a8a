"""The splits of a data set: disjoint, seeded, and balanced over the classes."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.data.dataset_images import DatasetImages
from evoprune.data.images import Images, as_float, tensor_identity
from evoprune.tasks.trees import Tree, select, tensors_in

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """The images and targets of one split. Images read from it are normalised: (pixels - mean) / std.

    targets: labels int64 (n,), or as the task has them; None if the data have none. mean, std: float32 (c,), of the
    training images.
    """

    images: Images
    targets: Tree
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor | Indices) -> tuple[Tensor, Tree]:
        """The images and targets at `indices` (b,): float32 (b, c, h, w), and a tree of tensors (b, ...)."""
        [found] = self.batches([torch.as_tensor(indices, dtype=torch.int64)])
        return found

    def batches(self, positions: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tree]]:
        """The images and targets at each of these positions, int64 (b,), in turn, as `batch` gives them.

        Images that are not in memory may be read ahead by other processes. A data set that changes its images each time
        gives the targets that go with them.
        """
        if isinstance(self.images, DatasetImages):
            read = self.images.read_ahead(positions)
        else:
            read = ((self.images.read(chosen), None) for chosen in positions)
        for chosen, (pixels, targets) in zip(positions, read, strict=True):
            normalised = (as_float(pixels) - self.mean[:, None, None]) / self.std[:, None, None]
            yield normalised, select(self.targets, chosen) if targets is None else targets

    def pixels(self) -> Tensor:
        """All images before they are normalised: float32 (n, c, h, w), 0..1 if they are stored as bytes."""
        return as_float(self.images.read(torch.arange(len(self))))

    def tensors(self) -> tuple[Tensor, Tree]:
        """All images and targets, as `batch` gives them."""
        return self.batch(torch.arange(len(self)))

    def fingerprint(self) -> str:
        """A hash of the images, targets and normalisation: equal if and only if all of them and their order are equal.

        Images in memory count with every pixel; image files with name, size and time of change, so none is read.

        Returns:
            SHA-256 as 64 hexadecimal digits.

        Raises:
            DataError: if an image file is missing.
        """
        digest = hashlib.sha256()
        for piece in self.images.identity():
            digest.update(piece)
        for tensor in (*tensors_in(self.targets), self.mean, self.std):
            for piece in tensor_identity(tensor):
                digest.update(piece)
        return digest.hexdigest()


def stratified_split(labels: Indices, size: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Draws `size` of the positions 0..n-1 so that each class has its share of them, within one.

    Shares are rounded by largest remainder.

    Args:
        labels: int64 (n,), >= 0.
        size: the number of positions to draw.
        rng: draws them.

    Returns:
        The drawn positions in random order, and the others in rising order.

    Raises:
        ValueError: if size is not in 0..n.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"size must be in 0..{len(labels)} (the number of labels), not {size}")
    drawn = [np.empty(0, np.int64)]
    for label, count in enumerate(_class_counts(labels, size)):
        drawn.append(rng.permutation(np.flatnonzero(labels == label))[:count])
    chosen = rng.permutation(np.concatenate(drawn))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def _class_counts(labels: Indices, size: int) -> Indices:
    """The number of positions to draw from each class, (classes,): within one of size * n_class / n."""
    if size == 0:
        return np.zeros(0, np.int64)
    # Integers throughout: a share rounded from a float could exceed the images of a class.
    counts, remainders = np.divmod(size * np.bincount(labels), len(labels))
    largest = np.argsort(-remainders, kind="stable")[: size - counts.sum()]
    counts[largest] += 1
    return counts
