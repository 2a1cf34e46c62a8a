"""Networks in the middle of training, kept after every epoch."""

from evoprune.nets.training import FitState
from evoprune.record import files
from evoprune.record.folder import RunFolder


def write_training_state(folder: RunFolder, network: str, state: FitState) -> None:
    """network: `baseline`, or a survivor's key. Raises RunFolderError as `files.write_bytes`."""
    files.write_tensors(folder.training(network), state.tensors, {"epoch": str(state.epoch)})


def read_training_state(folder: RunFolder, network: str) -> FitState | None:
    """Where training of this network stands, None where it has not begun. Raises RunFolderError where damaged."""
    path = folder.training(network)
    if not path.is_file():
        return None
    tensors, metadata = files.read_tensors(path)
    return FitState(int(metadata["epoch"]), tensors)


def drop_training_state(folder: RunFolder, network: str) -> None:
    """The network is trained: its state in the middle is not needed any more."""
    files.remove([folder.training(network)])
