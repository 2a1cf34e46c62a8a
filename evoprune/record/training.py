"""Networks in the middle of training, kept after every epoch."""

from collections.abc import Callable

from evoprune.nets.training import FitState
from evoprune.record import files
from evoprune.record.folder import RunFolder


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
