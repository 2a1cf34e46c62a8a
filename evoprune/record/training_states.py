"""Networks in the middle of training, kept after every epoch."""

from collections.abc import Callable

from torch import Tensor

from evoprune.errors import ConfigError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.training.fit import FitState


def write_training_state(folder: RunFolder, network: str, state: FitState) -> None:
    """network: `baseline`, or a survivor's key. Raises RunFolderError as `files.write_bytes`."""
    files.write_tensors(folder.training(network), state.tensors, {"epoch": str(state.epoch)})


def read_training_state(folder: RunFolder, network: str, note: Callable[[str], None]) -> FitState | None:
    """Where training of this network stands, None where it has not begun; or where that is damaged, as `note` is told.

    Raises RunFolderError where the file cannot be read.
    """
    path = folder.training(network)
    if not path.is_file():
        return None
    try:
        tensors, metadata = files.read_tensors(path)
        return FitState(int(metadata["epoch"]), tensors)
    except (files.DamagedFileError, KeyError, ValueError) as error:
        reason = error if isinstance(error, files.DamagedFileError) else f"{path} is damaged: it names no epoch"
        note(f"{reason}; its training begins again")
        return None


def drop_training_state(folder: RunFolder, network: str) -> None:
    """The network is trained: its state in the middle is not needed any more."""
    files.remove([folder.training(network)])


def write_rewind(folder: RunFolder, state: FitState) -> None:
    """Keeps the baseline's weights at this epoch, for survivors to be rewound to."""
    files.write_tensors(folder.rewind, state.weights, {"epoch": str(state.epoch)})


def read_rewind(folder: RunFolder, epoch: int) -> dict[str, Tensor]:
    """The baseline's weights at this epoch. Raises ConfigError where they were not kept."""
    tensors, metadata = files.read_tensors(folder.rewind) if folder.rewind.is_file() else ({}, {"epoch": "none"})
    if metadata["epoch"] != str(epoch):
        raise ConfigError(
            f"retrain.start: rewind_weights needs the baseline's weights after epoch {epoch} of its training, and "
            f"{folder.root} kept those of {metadata['epoch']}; start another run with `evoprune run` and --out, "
            "or take rewind_learning_rate"
        )
    return tensors
