"""A survivor's file: its retrained, compacted weights as they are stored, and what images its network reads.

The genome is not in it: it stands with the candidate of the same key.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evoprune.errors import SearchSpaceError
from evoprune.record import files

if TYPE_CHECKING:
    import torch

    from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class SavedSurvivor:
    """tensors: the compacted network's state dict, masked weights as zeros. image_shape: (c, h, w)."""

    tensors: "Mapping[str, torch.Tensor]"
    image_shape: tuple[int, int, int]
    classes: int


def write_survivor(path: Path, survivor: SavedSurvivor, space: "SearchSpace", genome: np.ndarray) -> None:
    """Put a survivor at `path` as safetensors, packed (`surgery.packing`). Raises RunFolderError as `files`."""
    from evoprune.surgery.packing import pack

    metadata = {"image_shape": json.dumps(survivor.image_shape), "classes": json.dumps(survivor.classes)}
    files.write_tensors(path, pack(survivor.tensors, space, space.check(genome)), metadata)


def read_survivor(path: Path, space: "SearchSpace", genome: np.ndarray) -> SavedSurvivor:
    """The survivor at `path`, to the bit. Raises DamagedFileError where the file is not what `write_survivor` wrote."""
    from evoprune.surgery.packing import unpack

    packed, metadata = files.read_tensors(path)
    try:
        tensors = unpack(packed, space, space.check(genome))
    except SearchSpaceError as error:
        raise files.DamagedFileError(f"{path}: {error}") from error
    try:
        channels, height, width = (int(size) for size in json.loads(metadata["image_shape"]))
        classes = int(json.loads(metadata["classes"]))
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise files.DamagedFileError(f"{path} is damaged: its metadata do not describe a survivor") from error
    return SavedSurvivor(tensors, (channels, height, width), classes)
