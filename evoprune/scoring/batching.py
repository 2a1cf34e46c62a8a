"""In which batches a machine scores fastest, and how large they may be for a worker's memory: measured once a run."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.config.schema import WorkersConfig
from evoprune.errors import WorkerError
from evoprune.networks.modes import eval_mode
from evoprune.scoring.execution import Execution
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.training.threads import torch_threads

BATCH_SIZES = (16, 32, 64, 128, 256)
"""What is tried, smallest first. In smaller ones products are summed in another order, and logits differ by bits."""

WORTH_IT = 0.03
"""A larger batch is taken only where it is faster by this share: small ones take less memory."""

TYPICAL_SHARE = 0.25
"""Of the validation images, what a candidate typically sees before scoring stops."""

MEASURED_KEPT_FRACTION = 0.7
"""Share of the maps of the network that is timed: about what a search scores."""

REPEATS = 3
MEASURED_SECONDS = 0.3
"""About how long all batch sizes are timed in one repeat."""

LIVE_TENSORS = 3
"""How many tensors as large as the largest are alive at once: a layer's input and output, and one that skips it."""

SHARE_OF_MACHINE = 0.6
"""Of the machine's memory, what all workers may take by default; the rest is Ray's, the driver's and the user's."""

GRAM_SHARE = 0.2
"""Of the machine's memory, what statistics for compensation may take by default."""

GIB = 2**30


def measured_execution(problem: Problem, device: torch.device, workers: WorkersConfig) -> Execution:
    """The fastest batch size of those that fit into a worker's memory.

    Raises WorkerError where not even two images fit.
    """
    most = _most_images(problem, memory_bytes(workers))
    calibration = min(problem.execution.calibration_batch_size, most)
    execution = replace(problem.execution, calibration_batch_size=calibration)
    sizes = [size for size in BATCH_SIZES if size <= min(most, len(problem.images))] or [most]
    with torch_threads(workers.threads):
        seconds = _seconds_an_image(replace(problem, execution=execution), device, sizes)
    return replace(execution, batch_size=fastest(seconds, TYPICAL_SHARE * len(problem.images)))


def fastest(seconds: dict[int, float], images: float) -> int:
    """The smallest batch size that no larger one beats by more than WORTH_IT.

    seconds: an image, by batch size. images: seen before scoring stops, which it does somewhere in a batch: half of
    one, on average, is computed for nothing.
    """
    total = {size: each * (images + size / 2) for size, each in seconds.items()}
    chosen, *larger = sorted(total)
    for size in larger:
        if total[size] < total[chosen] * (1 - WORTH_IT):
            chosen = size
    return chosen


def memory_bytes(workers: WorkersConfig) -> int:
    """What a worker may take. By default the machine's cores share it, however many of them work."""
    if workers.memory == "auto":
        return int(SHARE_OF_MACHINE * machine_bytes() * workers.threads / (os.cpu_count() or 1))
    return int(workers.memory * GIB)


def gram_bytes(workers: WorkersConfig) -> int:
    """What the statistics for compensation may take."""
    return int(GRAM_SHARE * machine_bytes() if workers.gram_memory == "auto" else workers.gram_memory * GIB)


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process runs in."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(allowed)) if allowed.isdecimal() else total


def _most_images(problem: Problem, memory: int) -> int:
    """How many images a pass may have, besides what a worker holds all the time."""
    held = sum(tensor.nbytes for tensor in problem.model.state_dict().values())
    # as they came, and as they are laid out; a network beside the baseline, cut and folded
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
    """Bytes of the largest output of any module."""
    sizes = [images.nbytes]

    def note(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad(), eval_mode(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes)


def _seconds_an_image(problem: Problem, device: torch.device, sizes: list[int]) -> dict[int, float]:
    """The best of some repeats for each size, all sizes in turn, so that drift hits them alike."""
    genome = problem.space.random(np.random.default_rng(0), MEASURED_KEPT_FRACTION)
    forward = Scorer(problem, device).forward(genome)
    best = dict.fromkeys(sizes, float("inf"))
    for _ in range(REPEATS):
        for size in sizes:
            started, seen = time.perf_counter(), 0
            while time.perf_counter() - started < MEASURED_SECONDS / len(sizes) or not seen:
                seen += len(forward(problem.images[:size].to(device)))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[size] = min(best[size], (time.perf_counter() - started) / seen)
    return best
