"""Measured latency of the layers of networks, on the inputs that they get in a forward pass."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evoprune.latency import network_latency as latency

_Calls = dict[str, list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]]


def layer_latencies_ms(
    networks: Mapping[str, nn.Module], layers: Sequence[str], image: Tensor, threads: int = 1
) -> dict[str, dict[str, float]]:
    """Measures each layer of each network, in rounds over the networks, so that drift affects all alike.

    Takes about as long as `latencies_ms`.

    Args:
        networks: Networks in eval mode, by name.
        layers: Names of modules. Names that a network lacks, and modules that it does not call, are left out.
        image: float (1, c, h, w), on the networks' device.
        threads: Number of threads.

    Returns:
        Median milliseconds in one forward pass, by network and layer; all calls of a layer are added up.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    seconds = latency.SECONDS_A_ROUND / max(len(layers), 1)
    rounds: dict[str, dict[str, list[float]]] = {name: {} for name in networks}
    with torch.inference_mode():
        calls = {name: _calls(network, layers, image) for name, network in networks.items()}
        for _ in range(latency.ROUNDS):
            for name, of_layer in calls.items():
                for layer, inputs in of_layer.items():
                    timer = Timer(
                        "for module, args, kwargs in inputs: module(*args, **kwargs)",
                        globals={"inputs": inputs},
                        num_threads=threads,
                    )
                    median_ms = timer.blocked_autorange(min_run_time=seconds).median * 1e3
                    rounds[name].setdefault(layer, []).append(median_ms)
    return {
        name: {layer: statistics.median(times) for layer, times in of_layer.items()}
        for name, of_layer in rounds.items()
    }


def _calls(network: nn.Module, layers: Sequence[str], image: Tensor) -> _Calls:
    """The arguments of all calls of each layer in one forward pass."""
    modules = dict(network.named_modules())
    calls: _Calls = {}
    hooks: list[RemovableHandle] = []

    def listen(name: str, module: nn.Module) -> None:
        def add_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(name, []).append((module, args, kwargs))

        hooks.append(module.register_forward_pre_hook(add_call, with_kwargs=True))

    for name in layers:
        if name in modules:
            listen(name, modules[name])
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
