"""A survivor's file: its retrained, compacted weights and what it takes to build the network around them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evoprune.record import files

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SavedSurvivor:
    """What a survivor's file holds.

    tensors: the compacted network's state dict. genome: uint8 (genes,). image_shape: (c, h, w).
    """

    tensors: "Mapping[str, torch.Tensor]"
    genome: np.ndarray
    image_shape: tuple[int, int, int]
    classes: int


def write_survivor(path: Path, survivor: SavedSurvivor) -> None:
    """Put a survivor at `path` as safetensors. Raises RunFolderError as `files.write_bytes`."""
    metadata = {
        "genome": json.dumps(survivor.genome.tolist()),
        "image_shape": json.dumps(survivor.image_shape),
        "classes": json.dumps(survivor.classes),
    }
    files.write_tensors(path, survivor.tensors, metadata)


def read_survivor(path: Path) -> SavedSurvivor:
    """The survivor at `path`. Raises DamagedFileError where the file is not what `write_survivor` wrote."""
    tensors, metadata = files.read_tensors(path)
    try:
        genome = np.array(json.loads(metadata["genome"]), dtype=np.uint8)
        channels, height, width = (int(size) for size in json.loads(metadata["image_shape"]))
        classes = int(json.loads(metadata["classes"]))
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise files.DamagedFileError(f"{path} is damaged: its metadata do not describe a survivor") from error
    return SavedSurvivor(tensors, genome, (channels, height, width), classes)
