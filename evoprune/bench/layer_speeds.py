"""Speedups of single layers of a survivor over the baseline's, and the paper's own measure of them.

The paper times the lowered (im2col) matrix product of every layer: in full, and without the rows and columns that
pruning removes from both matrices (Anwar, Hwang and Sung 2017, section 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.bench.timing import timings
from evoprune.surgery.layer_statistics import unfolded
from evoprune.surgery.lowering.lower import lower_compacted
from evoprune.surgery.recording import recorded


@dataclass(frozen=True)
class LayerSpeed:
    """The speed of one layer; times are of a forward pass of the whole batch, in milliseconds.

    Attributes:
        layer: its name.
        kind: its class.
        macs_ratio: MACs of the survivor's layer over the baseline's.
        baseline_ms: time of the baseline's layer.
        survivor_ms: time of the survivor's layer.
        speedup: the baseline's time over the survivor's.
        form: lowered form of the survivor's layer.
        paper_full_ms: time of the whole im2col product; None for linear layers.
        paper_reduced_ms: time of the reduced product; None for linear layers.
        paper_speedup: ratio of the two; None for linear layers.
    """

    layer: str
    kind: str
    macs_ratio: float
    baseline_ms: float
    survivor_ms: float
    speedup: float
    form: str
    paper_full_ms: float | None
    paper_reduced_ms: float | None
    paper_speedup: float | None


def layer_speeds(
    baseline: nn.Module, survivor: nn.Module, masks: Mapping[str, Tensor], images: Tensor, threads: int, seconds: float
) -> list[LayerSpeed]:
    """Times every convolution and linear layer of both networks, in its fastest form, on its own inputs.

    Args:
        baseline: the unpruned network.
        survivor: the pruned network.
        masks: bool tensors of the survivor's weights that stay, by name.
        images: float (batch, c, h, w).
        threads: number of threads to compute with.
        seconds: duration of each layer's timing in each of several rounds.
    """
    inputs, inputs_left = (_layer_inputs(network, images) for network in (baseline, survivor))
    speeds = []
    for name, values in inputs.items():
        if name not in inputs_left:
            continue
        whole, left = baseline.get_submodule(name), survivor.get_submodule(name)
        mask = masks.get(f"{name}.weight")
        speeds.append(_speed(name, whole, left, mask, values, inputs_left[name], threads, seconds))
    return speeds


def _speed(
    name: str, whole: Any, left: Any, mask: Tensor | None, values: Tensor, values_left: Tensor, threads: int,
    seconds: float,
) -> LayerSpeed:  # fmt: skip
    plain = lower_compacted(whole, values, keep_plain=True)
    lowered = lower_compacted(left, values_left, None if mask is None else {"weight": mask})
    calls: dict[str, Any] = {
        "baseline": partial(plain.network, values),
        "survivor": partial(lowered.network, values_left),
    }
    convolution = isinstance(whole, nn.modules.conv._ConvNd)
    if convolution:
        calls["full"] = _product(whole, None, values)
        calls["reduced"] = _product(left, mask, values_left)
    times = {name: timing.median_ms for name, timing in timings(calls, threads, seconds).items()}
    stays = int(left.weight.numel() if mask is None else mask.sum())
    full, reduced = times.get("full"), times.get("reduced")
    return LayerSpeed(
        layer=name,
        kind=type(whole).__name__,
        macs_ratio=stays / whole.weight.numel(),
        baseline_ms=times["baseline"],
        survivor_ms=times["survivor"],
        speedup=times["baseline"] / times["survivor"],
        form=lowered.forms.partition(": ")[2],
        paper_full_ms=full,
        paper_reduced_ms=reduced,
        paper_speedup=None if full is None or reduced is None else full / reduced,
    )


def _product(conv: Any, mask: Tensor | None, values: Tensor) -> Any:
    """The im2col product of a convolution: weights (groups, outputs, columns) times unfolded pixels.

    Columns that no output reads are left out.
    """
    weight = conv.weight.detach().reshape(conv.groups, -1, conv.weight[0].numel())
    columns = unfolded(conv, values).reshape(conv.groups, weight.shape[2], -1)
    if mask is not None:
        read = mask.reshape(weight.shape).any(1)  # (groups, columns)
        if conv.groups == 1:
            weight, columns = weight[:, :, read[0]], columns[:, read[0]]
        else:
            read = read.any(0)
            weight, columns = weight[:, :, read], columns[:, read]
    return partial(torch.bmm, weight.contiguous(), columns.contiguous())


def _layer_inputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The first input of every convolution and linear layer in a forward pass, in their order."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    names = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    return {name: values for name, (values, *_) in recorded(network, names, (images,)).items()}
