"""Where images are kept: in memory, or in files that are read as they are asked for."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from evoprune.errors import DataError
from evoprune.networks.plugin import describe

_CHUNK = 1000
_FILES_TO_INSPECT = 5000


class Images(Protocol):
    """A sequence of images of one shape."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one image."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor) -> Tensor:
        """The images at int64 (b,) as uint8, or float32 where they were given so, (b, c, h, w)."""

    def select(self, indices: Tensor) -> Self:
        """The images at int64 (n,), in this order, without the others."""

    def identity(self) -> Iterator[bytes]:
        """Bytes that differ if the images, their order or their type differ, in pieces of bounded size."""


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Images in memory: uint8 or float32 (n, c, h, w)."""

    pixels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]

    def select(self, indices: Tensor) -> "ImageArray":
        return ImageArray(self.pixels[indices])

    def identity(self) -> Iterator[bytes]:
        return tensor_identity(self.pixels)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files below `root`, brought to one shape (c, h, w) as they are read."""

    root: Path
    paths: tuple[Path, ...]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        pixels = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            pixels[place] = read_image(self.paths[index], self.shape)
        return pixels

    def select(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles(self.root, tuple(self.paths[index] for index in indices.tolist()), self.shape)

    def identity(self) -> Iterator[bytes]:
        """Each file by its name below `root`, its size in bytes and its time of change, without reading it."""
        yield f"files {self.shape}".encode()
        for path in self.paths:
            try:
                found = path.stat()
            except OSError as error:
                raise damaged_image(path, error) from error
            name = os.fsencode(path.relative_to(self.root))
            yield b"%d %s %d %d\n" % (len(name), name, found.st_size, found.st_mtime_ns)


def tensor_identity(tensor: Tensor) -> Iterator[bytes]:
    """The tensor's type and shape, then its elements in row-major order, 1,000 rows a piece."""
    yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    for rows in tensor.split(_CHUNK):
        yield rows.cpu().numpy().tobytes()


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """One image file as uint8 (c, h, w), scaled to cover h x w and cropped at the centre where it differs.

    Raises DataError that names the file where it is damaged.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise damaged_image(path, error) from error
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def damaged_image(path: Path, error: Exception) -> DataError:
    """What to raise for an image file that could not be read because of `error`."""
    return DataError(f"data.root: {path} cannot be read as an image ({describe(error)}); remove it or get it anew")


def as_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1; float32 stays as it is."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def chunks_to_inspect(images: Images) -> tuple[Tensor, ...]:
    """The positions of all images, int64 (n,), at most 1,000 a piece; of more than 5,000 files, 5,000 evenly spaced."""
    chosen = torch.arange(len(images))
    if isinstance(images, ImageFiles) and len(images) > _FILES_TO_INSPECT:
        chosen = torch.linspace(0, len(images) - 1, _FILES_TO_INSPECT).long()
    return chosen.split(_CHUNK) if len(chosen) else ()


def channel_statistics(images: Images) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel over all pixels, float32 (c,) each, of `as_float` images.

    Of images in files, 5,000 evenly spaced ones stand for all. A channel that never changes has deviation 1.
    """
    chunks = chunks_to_inspect(images)
    # Sums are taken of the differences to one pixel: of a channel that never changes they are exactly 0.
    shift = as_float(images.read(chunks[0][:1]))[:, :, :1, :1]  # (1, c, 1, 1)
    sums, squares = torch.zeros(2, images.shape[0], dtype=torch.float64)
    for chunk in chunks:
        pixels = as_float(images.read(chunk)) - shift  # (b, c, h, w)
        sums += pixels.sum(dim=(0, 2, 3), dtype=torch.float64)
        squares += pixels.square().sum(dim=(0, 2, 3), dtype=torch.float64)
    _, height, width = images.shape
    count = sum(map(len, chunks)) * height * width
    mean = shift.flatten() + sums / count
    std = (squares / count - (sums / count).square()).clamp(min=0).sqrt()
    std = torch.where(std > 0, std, 1)
    return mean.float(), std.float()
