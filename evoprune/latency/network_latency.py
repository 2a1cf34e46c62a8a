"""How long networks take, measured so that drift of the machine hits all alike."""

import logging
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evoprune.surgery.lowering.lower import lower_compacted
from evoprune.training.threads import torch_threads

ROUNDS = 5
SECONDS_A_ROUND = 0.1


def lowered(networks: Mapping[str, nn.Module], masks: Mapping[str, Mapping[str, Tensor]], image: Tensor,
            threads: int = 1) -> dict[str, nn.Module]:  # fmt: skip
    """Networks in the form in which they run fastest here, on a CPU; on other devices they are left as they are.

    masks: by a network's name, which weights stay of the layers that lose some. image: as of `latencies_ms`.
    """
    if image.device.type != "cpu":
        return dict(networks)
    with torch_threads(threads):
        return {name: lower_compacted(network, image, masks.get(name)).network for name, network in networks.items()}


def latencies_ms(networks: Mapping[str, nn.Module], image: Tensor, threads: int = 1) -> dict[str, float]:
    """Median milliseconds of one forward pass of each network on one image, rounds interleaved.

    image: float (1, c, h, w), on the networks' device.
    """
    # Importing it says at length that a compiler for GPUs is not needed.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    rounds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, network in networks.items():
                timer = Timer("network(image)", globals={"network": network, "image": image}, num_threads=threads)
                rounds[name].append(timer.blocked_autorange(min_run_time=SECONDS_A_ROUND).median * 1e3)
    return {name: statistics.median(times) for name, times in rounds.items()}
