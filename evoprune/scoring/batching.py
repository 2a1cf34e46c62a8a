"""Batch sizes: the fastest one on this machine that fits into a worker's memory, measured once a run."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from evoprune.config.schema import WorkersConfig
from evoprune.errors import WorkerError
from evoprune.networks.modes import eval_mode
from evoprune.scoring.execution import Execution
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.training.threads import torch_threads

BATCH_SIZES = (16, 32, 64, 128, 256)
"""Sizes that are timed. Below 16, products are summed in another order, and logits differ in their last bits."""

WORTH_IT = 0.03
"""Least gain in speed, as a share, for which a larger batch is chosen: small ones take less memory."""

TYPICAL_SHARE = 0.25
"""Share of the validation images that a candidate typically sees before scoring stops."""

MEASURED_KEPT_FRACTION = 0.7
"""Share of the maps that the timed network keeps, about as many as the networks that a search scores."""

REPEATS = 3
MEASURED_SECONDS = 0.3
"""Approximate duration of one repeat over all batch sizes, in seconds."""

LIVE_TENSORS = 3
"""Number of tensors of the largest size that are alive at once: a layer's input, its output, and a skip connection."""

SHARE_OF_MACHINE = 0.6
"""Share of the machine's memory that all workers may take by default; the rest is for Ray, the driver and the user."""

GRAM_SHARE = 0.2
"""Share of the machine's memory that statistics for compensation may take by default."""

GIB = 2**30


def measured_execution(problem: Problem, device: torch.device, workers: WorkersConfig) -> Execution:
    """The problem's execution with the fastest batch size of those that fit into a worker's memory.

    Raises:
        WorkerError: Not even two images fit.
    """
    most = _most_images(problem, memory_bytes(workers))
    calibration = min(problem.execution.calibration_batch_size, most)
    execution = replace(problem.execution, calibration_batch_size=calibration)
    sizes = [size for size in BATCH_SIZES if size <= min(most, len(problem.images))] or [most]
    with torch_threads(workers.threads):
        seconds = _seconds_an_image(replace(problem, execution=execution), device, sizes)
    return replace(execution, batch_size=fastest(seconds, TYPICAL_SHARE * len(problem.images)))


def fastest(seconds: dict[int, float], images: float) -> int:
    """The smallest batch size that no larger one beats by more than `WORTH_IT`.

    Args:
        seconds: Seconds for one image, by batch size.
        images: Number of images seen before scoring stops. It stops within a batch, half of which, on average, is
            computed in vain.
    """
    total = {size: each * (images + size / 2) for size, each in seconds.items()}
    chosen, *larger = sorted(total)
    for size in larger:
        if total[size] < total[chosen] * (1 - WORTH_IT):
            chosen = size
    return chosen


def memory_bytes(workers: WorkersConfig) -> int:
    """Memory that a worker may take, in bytes. By default each core has an equal share, whether it works or not."""
    if workers.memory == "auto":
        return int(SHARE_OF_MACHINE * machine_bytes() * workers.threads / (os.cpu_count() or 1))
    return int(workers.memory * GIB)


def gram_bytes(workers: WorkersConfig) -> int:
    """Memory that the statistics for compensation may take, in bytes."""
    return int(GRAM_SHARE * machine_bytes() if workers.gram_memory == "auto" else workers.gram_memory * GIB)


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process runs in, in bytes."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total: int = psutil.virtual_memory().total
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(allowed)) if allowed.isdecimal() else total


def _most_images(problem: Problem, memory: int) -> int:
    """Largest number of images in a pass within this memory, in bytes, beside what a worker always holds."""
    held = sum(tensor.nbytes for tensor in problem.model.state_dict().values())
    # images in both memory layouts; the baseline, and a network that is cut and folded
    held = 3 * held + 2 * (problem.images.nbytes + problem.calibration.nbytes)
    image = LIVE_TENSORS * _largest_tensor(problem.model, problem.calibration[:2]) // 2
    most = (memory - held) // max(image, 1)
    if most < 2:
        needed = (held + 2 * image) / GIB
        raise WorkerError(
            f"workers.memory must be at least {needed:.2f} GiB for two images of this network at a time, not "
            f"{memory / GIB:.2f}; raise it, or lower workers.count or data.validation"
        )
    return int(most)


def _largest_tensor(model: nn.Module, images: Tensor) -> int:
    """Size of the largest output of any module, in bytes."""
    sizes = [images.nbytes]

    def add_size(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(add_size) for module in model.modules()]
    try:
        with torch.no_grad(), eval_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)


def _seconds_an_image(problem: Problem, device: torch.device, sizes: list[int]) -> dict[int, float]:
    """Seconds for one image by batch size: the best of several rounds, so that drift affects all sizes alike."""
    genome = problem.space.random(np.random.default_rng(0), MEASURED_KEPT_FRACTION)
    forward = Scorer(problem, device).forward(genome)
    best = dict.fromkeys(sizes, float("inf"))
    for _ in range(REPEATS):
        for size in sizes:
            started, seen = time.perf_counter(), 0
            while time.perf_counter() - started < MEASURED_SECONDS / len(sizes) or not seen:
                forward(problem.images[:size].to(device))
                seen += size
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[size] = min(best[size], (time.perf_counter() - started) / seen)
    return best
