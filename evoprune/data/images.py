"""Containers of images: in memory, or in files that are read on demand."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from evoprune.errors import DataError, type_and_first_line

_CHUNK = 1000
_FILES_TO_INSPECT = 5000

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's name. Ghostscript would run a file in another one, EPS, as a program."""


class Images(Protocol):
    """A sequence of images of one shape."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one image."""

    def __len__(self) -> int: ...

    @property
    def held(self) -> bool:
        """Whether the images are in memory, so that reading takes no time."""

    @property
    def same_every_time(self) -> bool:
        """Whether an image is the same each time that it is read."""

    def read(self, indices: Tensor) -> Tensor:
        """The images at positions int64 (b,): uint8, or float32 if they were given as floats, (b, c, h, w)."""

    def select(self, indices: Tensor) -> Self:
        """A container of the images at positions int64 (n,) alone, in this order."""

    def identity(self) -> Iterator[bytes]:
        """Bytes that differ if the images, their order or their type differ, in pieces of bounded size."""


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Images in memory: uint8 or float32 (n, c, h, w)."""

    pixels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def held(self) -> bool:
        """True."""
        return True

    @property
    def same_every_time(self) -> bool:
        """True."""
        return True

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor) -> Tensor:
        """The images at positions int64 (b,)."""
        return self.pixels[indices]

    def select(self, indices: Tensor) -> "ImageArray":
        """The images at positions int64 (n,) alone, copied."""
        return ImageArray(self.pixels[indices])

    def identity(self) -> Iterator[bytes]:
        """The type, shape and elements of the pixels."""
        return tensor_identity(self.pixels)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files below `root`, scaled and cropped to one shape (c, h, w) when they are read."""

    root: Path
    paths: tuple[Path, ...]
    shape: tuple[int, int, int]

    @property
    def held(self) -> bool:
        """False: reading takes time."""
        return False

    @property
    def same_every_time(self) -> bool:
        """True."""
        return True

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor) -> Tensor:
        """Reads the images at positions int64 (b,): uint8 (b, c, h, w)."""
        pixels = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            pixels[place] = read_image(self.paths[index], self.shape)
        return pixels

    def select(self, indices: Tensor) -> "ImageFiles":
        """The files at positions int64 (n,) alone."""
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


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Opens an image file in one of `IMAGE_FORMATS`, whose readers run no other program.

    Raises:
        DataError: if the file, or what is done with the image inside, fails: it is damaged, too large for Pillow's
            limit against decompression bombs, or of a pixel type that does not fit 0..255.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.mode in ("I", "F") and not _has_16_bits(image):
                raise ValueError(f"pixels of type {image.mode} have no fixed range; save 8 or 16 bits a channel")
            yield image
    except Exception as error:
        raise damaged_image(path, error) from error


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Reads one image file, scaled to cover h x w and cropped at the centre if it has another size.

    Grey images of 16 bits are scaled: 65535 becomes 255.

    Args:
        path: of the file.
        shape: (c, h, w); c is 1 for grey or 3 for colour.

    Returns:
        uint8 (c, h, w).

    Raises:
        DataError: as `opened_image`.
    """
    channels, height, width = shape
    with opened_image(path) as file:
        image = _eight_bits(file) if _has_16_bits(file) else file
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def is_grey(image: Image.Image) -> bool:
    """Whether the image has one channel, of 1, 8 or 16 bits."""
    return image.mode in ("1", "L") or _has_16_bits(image)


def damaged_image(path: Path, error: Exception) -> DataError:
    """The error to raise for an image file that could not be read because of `error`."""
    return DataError(
        f"data.root: {path} cannot be read as an image ({type_and_first_line(error)}); remove it, or get it anew"
    )


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the image is grey with pixels in 0..65535, which Pillow reads as mode I from PGM and, once, PNG files."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits in 8: Pillow's own conversion would make everything above 255 white."""
    return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))


def as_float(pixels: Tensor) -> Tensor:
    """Pixels as float32: uint8 in 0..255 becomes 0..1; float32 is returned as it is."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def chunks_to_inspect(images: Images) -> tuple[Tensor, ...]:
    """The positions of all images, int64 (n,), at most 1,000 a piece; of more than 5,000 outside of memory, 5,000."""
    chosen = torch.arange(len(images))
    if not images.held and len(images) > _FILES_TO_INSPECT:
        chosen = torch.linspace(0, len(images) - 1, _FILES_TO_INSPECT).long()
    return chosen.split(_CHUNK) if len(chosen) else ()


def channel_statistics(images: Images) -> tuple[Tensor, Tensor]:
    """The normalisation of images: mean and standard deviation of each channel over all pixels, as floats in 0..1.

    Of more than 5,000 image files, 5,000 evenly spaced ones are read. A constant channel has deviation 1.

    Returns:
        Mean and deviation, float32 (c,) each.
    """
    chunks = chunks_to_inspect(images)
    # Sums of differences to one pixel are exactly 0 for a constant channel.
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
