"""Measured latency of networks, in rounds over all of them, so that drift of the machine affects all alike."""

import logging
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evoprune.surgery.lowering.lower import lower_compacted
from evoprune.training.threads import torch_threads

ROUNDS = 5
SECONDS_A_ROUND = 0.1
"""Least duration of one network's measurement in one round, in seconds."""


def lowered(networks: Mapping[str, nn.Module], masks: Mapping[str, Mapping[str, Tensor]], image: Tensor,
            threads: int = 1) -> dict[str, nn.Module]:  # fmt: skip
    """The networks in their fastest form on this machine. On a device other than a CPU they are left unchanged.

    Args:
        networks: Compacted networks in eval mode, by name.
        masks: By network and layer's weight, the mask of the weights that stay, if some of a layer's are masked.
        image: float (1, c, h, w), on the networks' device.
        threads: Number of threads.
    """
    if image.device.type != "cpu":
        return dict(networks)
    with torch_threads(threads):
        return {name: lower_compacted(network, image, masks.get(name)).network for name, network in networks.items()}


def latencies_ms(networks: Mapping[str, nn.Module], image: Tensor, threads: int = 1) -> dict[str, float]:
    """Measures one forward pass of each network on one image.

    Args:
        networks: Networks in eval mode, by name.
        image: float (1, c, h, w), on the networks' device.
        threads: Number of threads.

    Returns:
        Median milliseconds by network.
    """
    # The import logs at length that no compiler for GPUs is needed.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    rounds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, network in networks.items():
                timer = Timer("network(image)", globals={"network": network, "image": image}, num_threads=threads)
                rounds[name].append(timer.blocked_autorange(min_run_time=SECONDS_A_ROUND).median * 1e3)
    return {name: statistics.median(times) for name, times in rounds.items()}
