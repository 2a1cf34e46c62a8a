"""The identity of a run besides its config and search space: the hashes of its weights and of its data.

It is written when a run is set up. A run that is resumed with other weights or other data is refused.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor

from evoprune.data.images import tensor_identity
from evoprune.data.load import Data
from evoprune.errors import ConfigError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_identity
from evoprune.tasks.trees import tensors_in

Identity = Mapping[str, str]
"""SHA-256 by what was hashed: `weights`, `train images`, `train labels`, and so on."""

_WEIGHTS = "weights"
_SHOWN_DIGITS = 12

logger = logging.getLogger(__name__)


def identity_of(data: Data, weights: Mapping[str, Tensor] | None) -> dict[str, str]:
    """Hashes the images and targets of every split and, if they are known, the weights and the class names.

    Args:
        data: images in memory are hashed whole, image files by name, size and time of change (`Images.identity`).
        weights: of the trained network; None if the run trains it.
    """
    splits = {
        "train": data.train,
        "calibration": data.calibration,
        "validation": data.validation,
        "test": data.test,
    }
    identity = {} if weights is None else {_WEIGHTS: _sha256(_weights_identity(weights))}
    for name, split in splits.items():
        identity[f"{name} images"] = _sha256(split.images.identity())
        if split.targets is not None:
            pieces = chain.from_iterable(map(tensor_identity, tensors_in(split.targets)))
            identity[f"{name} labels"] = _sha256(pieces)
    if data.class_names is not None:
        identity["class names"] = _sha256(f"{name}\0".encode() for name in data.class_names)
    return identity


def check_identity(folder: RunFolder, identity: Identity) -> None:
    """Checks that weights and data are those of the run in the folder.

    A run of an older version has no identity, and passes. Parts that are not given now or were not given then are not
    compared: weights, of which the run folder has a copy, and labels.

    Raises:
        ConfigError: names the first part that differs.
        DamagedFileError: if the file is damaged.
    """
    if not folder.identity.is_file():
        return
    stored = read_identity(folder)
    for part in {**identity, **stored}:
        before, now = stored.get(part), identity.get(part)
        if before is not None and now is not None and before != now:
            raise ConfigError(
                f"the {part} differ from those that the run in {folder.root} was made on (sha256 "
                f"{before[:_SHOWN_DIGITS]} there, {now[:_SHOWN_DIGITS]} here); give the same {part}, or start "
                "another run with another folder (--out)"
            )


def write_identity(folder: RunFolder, identity: Identity) -> None:
    """Writes the identity into a folder that has none; with a warning if it holds the run of an older version."""
    if folder.identity.is_file():
        return
    if folder.holds_run():
        logger.warning(
            "%s does not record the weights and data of its run, so it could not be checked that they are still the "
            "same; those given now are recorded",
            folder.root,
        )
    files.write_json(folder.identity, dict(identity))


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _weights_identity(weights: Mapping[str, Tensor]) -> Iterable[bytes]:
    """Each tensor in the order of names: its name, type and shape, and its bytes."""
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
