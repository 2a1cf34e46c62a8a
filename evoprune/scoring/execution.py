"""How networks are run for scoring: batch sizes and savings. Scores do not depend on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Execution:
    """Batch sizes and savings. Each saving can be switched off, to measure its effect.

    Attributes:
        batch_size: Number of validation images in a pass.
        calibration_batch_size: Largest number of images in a pass for batch-norm statistics.
        compacted: Removed parts are cut out instead of masked.
        fused: Convolution, batch norm and activation are one operation.
        channels_last: Tensors are laid out with channels last.
        early_stop: Counting stops as soon as the score is decided.
    """

    batch_size: int = 16
    calibration_batch_size: int = 256
    compacted: bool = True
    fused: bool = True
    channels_last: bool = True
    early_stop: bool = True
