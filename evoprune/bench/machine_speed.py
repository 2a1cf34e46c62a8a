"""The highest speeds that one core of this machine reaches."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from evoprune.training.threads import torch_threads


def convolution_gflops() -> float:
    """Speed of a convolution of 64 to 64 maps of 28 x 28 on one thread, 16 images at a time, in GFLOP/s."""
    maps = torch.randn(16, 64, 28, 28).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    return _best_gflops(lambda: F.conv2d(maps, weight, padding=1), 2 * 16 * 64 * 64 * 9 * 28 * 28)


def product_gflops() -> float:
    """Speed of a product of two matrices of 1024 x 1024 on one thread, in GFLOP/s."""
    one, other = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return _best_gflops(lambda: one @ other, 2 * 1024**3)


def _best_gflops(compute: Callable[[], object], operations: int, repeats: int = 30) -> float:
    best = float("inf")
    with torch_threads(1), torch.inference_mode():
        for _ in range(repeats):
            started = time.perf_counter()
            compute()
            best = min(best, time.perf_counter() - started)
    return operations / best / 1e9
