"""The file of a survivor: its retrained, compacted weights as stored, and the images that its network reads.

The genome is not in it, but with the candidate of the same key. The metadata describe the images
(`data.input_format`); files of earlier versions have the shape of the images and the number of classes alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evoprune.data.input_format import InputFormat
from evoprune.errors import SearchSpaceError
from evoprune.record import files
from evoprune.record.file_errors import damaged
from evoprune.record.schemas import StoredInput

if TYPE_CHECKING:
    import torch

    from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class SavedSurvivor:
    """A survivor as it is stored.

    Attributes:
        tensors: the state dict of the compacted network; masked weights are zeros.
        inputs: the images that the network reads.
    """

    tensors: "Mapping[str, torch.Tensor]"
    inputs: InputFormat


def write_survivor(path: Path, survivor: SavedSurvivor, space: "SearchSpace", genome: np.ndarray) -> None:
    """Stores a survivor as safetensors, packed (`surgery.packing`). Raises RunFolderError as `files.write_bytes`."""
    from evoprune.surgery.packing import pack

    metadata = survivor.inputs.to_metadata(normalisation_inside=False)
    files.write_tensors(path, pack(survivor.tensors, space, space.check(genome)), metadata)


def read_survivor(path: Path, space: "SearchSpace", genome: np.ndarray) -> SavedSurvivor:
    """The survivor that `write_survivor` stored, to the bit.

    Args:
        path: its file.
        space: the search space.
        genome: the genome of the candidate, uint8 (genes,).

    Raises:
        RunFolderError: the file cannot be read.
        DamagedFileError: its content is not a survivor of this genome.
    """
    from evoprune.surgery.packing import unpack

    packed, metadata = files.read_tensors(path)
    try:
        tensors = unpack(packed, space, space.check(genome))
    except SearchSpaceError as error:
        raise damaged(path, str(error)) from error
    files.validated(path, StoredInput, json.dumps(metadata))
    try:
        inputs = InputFormat.from_metadata(metadata)
    except ValueError as error:
        raise damaged(path, f"its metadata do not describe a survivor's images ({error})") from error
    return SavedSurvivor(tensors, inputs)
