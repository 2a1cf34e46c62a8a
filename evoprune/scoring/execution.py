"""How networks are run to be scored: in which batches, and with which of the savings. It changes no score."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Execution:
    """batch_size: validation images a pass. calibration_batch_size: most images a pass for batch-norm statistics.

    The savings, which are there to be measured one by one: compacted (cut out, not masked), fused (convolution, batch
    norm and activation in one), channels_last, early_stop (as soon as it is decided).
    """

    batch_size: int = 16
    calibration_batch_size: int = 256
    compacted: bool = True
    fused: bool = True
    channels_last: bool = True
    early_stop: bool = True
