"""How long each layer of a network takes, on the inputs that it gets in a forward pass."""

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
    """Median milliseconds of each layer in a forward pass of one image, by network and layer; rounds interleaved.

    layers: names of modules; what is no module, or is not called, is left out. A layer that is called more than once
    counts as often. image: float (1, c, h, w), on the networks' device. Takes about as long as `latencies_ms`.
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
    """What each layer is called with in one forward pass."""
    modules = dict(network.named_modules())
    calls: _Calls = {}
    hooks: list[RemovableHandle] = []

    def listen(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.setdefault(name, []).append((module, args, kwargs))

        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))

    for name in layers:
        if name in modules:
            listen(name, modules[name])
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
