"""Networks in the middle of training, stored after every epoch."""

import logging
import re

from torch import Tensor

from evoprune.errors import ConfigError
from evoprune.record import files
from evoprune.record.file_errors import DamagedFileError, damaged
from evoprune.record.folder import RunFolder
from evoprune.training.fit import FitState

_log = logging.getLogger(__name__)
_EPOCH = re.compile(r"\d{1,9}", re.ASCII)


def write_training_state(folder: RunFolder, network: str, state: FitState) -> None:
    """Stores the state of a network's training.

    Args:
        folder: the run folder.
        network: `baseline`, or the key of a survivor.
        state: the state after an epoch.

    Raises:
        RunFolderError: as `files.write_bytes`.
    """
    files.write_tensors(folder.training(network), state.tensors, {"epoch": str(state.epoch)})


def read_training_state(folder: RunFolder, network: str) -> FitState | None:
    """The state of a network's training; None if it has not begun. A damaged file is none: a warning names it.

    Raises RunFolderError if the file cannot be read.
    """
    path = folder.training(network)
    if not path.is_file():
        return None
    try:
        tensors, metadata = files.read_tensors(path)
        if not _EPOCH.fullmatch(metadata.get("epoch", "")) or not tensors:
            raise damaged(path, "it names no epoch, or has no tensors")
        return FitState(int(metadata["epoch"]), tensors)
    except DamagedFileError as error:
        _log.warning("%s; its training begins again", error)
        return None


def drop_training_state(folder: RunFolder, network: str) -> None:
    """Removes the state of a network that is trained. Raises RunFolderError as `files.remove`."""
    files.remove([folder.training(network)])


def write_rewind(folder: RunFolder, state: FitState) -> None:
    """Stores the baseline's weights at this epoch, for survivors to be rewound to. Raises as `files.write_bytes`."""
    files.write_tensors(folder.rewind, state.weights, {"epoch": str(state.epoch)})


def read_rewind(folder: RunFolder, epoch: int) -> dict[str, Tensor]:
    """The baseline's weights after an epoch, by name.

    Raises:
        ConfigError: they were not stored, or those of another epoch.
        DamagedFileError: the file is damaged.
    """
    tensors, metadata = files.read_tensors(folder.rewind) if folder.rewind.is_file() else ({}, {})
    kept = metadata.get("epoch", "none")
    if kept != str(epoch):
        raise ConfigError(
            f"retrain.start: rewind_weights needs the baseline's weights after epoch {epoch} of its training, and "
            f"{folder.root} kept those of {kept}; start another run with `evoprune run` and --out, "
            "or take rewind_learning_rate"
        )
    return tensors
