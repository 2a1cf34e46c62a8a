"""Seeds, also for the parts of PyTorch that draw from its global generators (initialisation, dropout)."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside it, PyTorch's global generators start from `seed`; afterwards, they have their state of before.

    Args:
        seed: 0..2**63-1.
        device: its generator is seeded, too, if it is a GPU.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def mixed_seed(*parts: int) -> int:
    """Combines whole numbers >= 0 into one seed in 0..2**63-1 with NumPy's SeedSequence."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
