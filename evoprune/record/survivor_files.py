"""A survivor's file: its retrained, compacted weights as they are stored, and what images its network reads.

The genome is not in it: it stands with the candidate of the same key. The metadata say what images the network reads
(`data.input_format`); files of earlier versions have the images' shape and the number of classes alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evoprune.data.input_format import InputFormat
from evoprune.errors import SearchSpaceError
from evoprune.record import files

if TYPE_CHECKING:
    import torch

    from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class SavedSurvivor:
    """tensors: the compacted network's state dict, masked weights as zeros. inputs: what the network reads."""

    tensors: "Mapping[str, torch.Tensor]"
    inputs: InputFormat


def write_survivor(path: Path, survivor: SavedSurvivor, space: "SearchSpace", genome: np.ndarray) -> None:
    """Put a survivor at `path` as safetensors, packed (`surgery.packing`). Raises RunFolderError as `files`."""
    from evoprune.surgery.packing import pack

    metadata = survivor.inputs.to_metadata(normalisation_inside=False)
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
        inputs = InputFormat.from_metadata(metadata)
    except ValueError as error:
        raise files.DamagedFileError(f"{path} is damaged: its metadata do not describe a survivor") from error
    return SavedSurvivor(tensors, inputs)
