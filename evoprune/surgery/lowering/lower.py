"""Lowering: masks turned into speed. Every convolution in the form that is fastest on the machine at hand."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from evoprune.discovery.proof import relative_difference
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, cut_masks
from evoprune.surgery.apply import compact
from evoprune.surgery.lowering.forms import Form, MaskedLayer, forms
from evoprune.surgery.lowering.graph import Graph, can_fold, flattened, folded, is_plain_conv
from evoprune.surgery.lowering.lowered_conv import Geometry, LoweredConv
from evoprune.surgery.lowering.stopwatch import Stopwatch, seconds_a_call
from evoprune.surgery.recording import recorded

ADVANTAGE = 0.97
"""What share of the plain convolution's time a form may take at most to be worth it."""

TOLERANCE = 1e-3
"""Largest difference of lowered outputs relative to their scale; more is no rounding, in float32 or better."""

DENSE = "dense"

FEW_MAPS = 4
"""Input maps of a group that are too few for channels-last to be faster for sure."""


@dataclass(frozen=True)
class LayerPlan:
    """What was chosen for a convolution: the form's name, and what was measured, name -> milliseconds."""

    layer: str
    form: str
    measured_ms: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Lowered:
    """A lowered network, and what was chosen for each convolution that has zeros."""

    network: nn.Module
    plans: tuple[LayerPlan, ...]

    @property
    def forms(self) -> str:
        """Every lowered layer with its form, as `conv2: shifted 3x1, conv3: 3 blocks`."""
        return ", ".join(f"{plan.layer}: {plan.form}" for plan in self.plans if plan.form != DENSE)


def lower(
    model: nn.Module,
    space: SearchSpace,
    genome: Genome,
    example_input: Any,
    *,
    stopwatch: Stopwatch = seconds_a_call,
) -> nn.Module:
    """A copy of the network without what the genome removes, its masked convolutions as a few dense ones.

    An ordinary module in eval mode that computes what `mask` and `compact` do, up to rounding. Every convolution gets
    the exact form that `stopwatch` finds fastest on the example input (a tensor, or a tuple of the forward's
    arguments), the plain one with zeros among them; batch norms that directly follow are folded in.
    Raises SearchSpaceError where the genome or the network is not of this search space.
    """
    masks = cut_masks(space, space.check(genome))
    return lower_compacted(compact(model, space, genome), example_input, masks, stopwatch=stopwatch).network


def lower_compacted(
    model: nn.Module,
    example_input: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    keep_plain: bool = False,
    stopwatch: Stopwatch = seconds_a_call,
) -> Lowered:
    """The same for a network whose maps are cut already and whose masked weights are zeros, as survivors are.

    masks: bool of a weight's shape by its name, which weights stay; of layers that are not named, and of all where
    it is None, those that are not zero. keep_plain: every convolution keeps its zeros, and all else is done alike.
    """
    model = copied(model).eval()
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    stays = {} if keep_plain else _layer_masks(model, masks or {})
    with torch.no_grad():
        expected = model(*inputs)
        graph = _graph(model, inputs, expected)
        if graph is None:
            return _module_by_module(model, inputs, stays, stopwatch)
        dense, layout = _fastest_layout(graph, inputs, stopwatch)
        inputs = _laid_out(inputs, layout)
        plans = _choose(graph, inputs, stays, layout, stopwatch)
        dense = _mix_layouts(dense, inputs, layout, stopwatch)
        if all(plan.form == DENSE for plan in plans):
            return Lowered(dense, plans)
        planned = _mix_layouts(graph.flat(inputs).to(memory_format=layout), inputs, layout, stopwatch)
        times = stopwatch([partial(dense, *inputs), partial(planned, *inputs)])
        if times[1] <= times[0] and relative_difference(expected, planned(*inputs)) <= TOLERANCE:
            return Lowered(planned, plans)
        return Lowered(dense, tuple(LayerPlan(plan.layer, DENSE, plan.measured_ms) for plan in plans))


def _layer_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Which weights stay of every plain convolution. Returns layer's name -> bool (outputs, inputs a group, taps)."""
    found = {}
    for name, module in model.named_modules():
        if is_plain_conv(module):
            weight: Any = module.weight
            mask = masks.get(f"{name}.weight" if name else "weight", weight != 0)
            found[name] = mask.flatten(2).cpu().numpy()
    return found


def _graph(model: nn.Module, inputs: Sequence[Any], expected: Any) -> Graph | None:
    """The network's graph, folded; None where it cannot be traced, or computes something else than the network."""
    try:
        graph = Graph(model)
        outputs = graph.copy().flat(inputs)(*inputs)
    except Exception:  # whatever tracing a user's forward raises: it depends on values
        return None
    return graph if relative_difference(expected, outputs) <= TOLERANCE else None


def _fastest_layout(
    graph: Graph, inputs: tuple[Any, ...], stopwatch: Stopwatch
) -> tuple[fx.GraphModule, torch.memory_format]:
    """The network as it is, plain, in the faster of two memory layouts. Sets the graph's layout, too."""
    candidates = []
    for layout in (torch.channels_last, torch.contiguous_format):
        dense = graph.copy().flat(inputs).to(memory_format=layout)
        call = partial(dense, *_laid_out(inputs, layout))
        try:
            call()
        except RuntimeError:  # it views its maps as vectors, which runs in the contiguous layout alone
            continue
        candidates.append((layout, dense, call))
    times = stopwatch([call for *_, call in candidates])
    layout, dense, _ = candidates[times.index(min(times))]
    graph.network.to(memory_format=layout)
    return dense, layout


def _mix_layouts(
    network: fx.GraphModule, inputs: tuple[Any, ...], layout: torch.memory_format, stopwatch: Stopwatch
) -> fx.GraphModule:
    """The network with the contiguous layout for layers that read few maps, as images, if that is faster.

    A convolution computes in the layout of its weight; channels-last has nothing to put together there.
    """
    if layout is torch.contiguous_format:
        return network
    mixed = copy.deepcopy(network)
    few = [weight for weight in mixed.parameters() if weight.ndim == 4 and weight.shape[1] <= FEW_MAPS < len(weight)]
    for weight in few:
        weight.data = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device).copy_(weight.data)
    times = stopwatch([partial(network, *inputs), partial(mixed, *inputs)])
    return mixed if times[1] < ADVANTAGE * times[0] else network


def _laid_out(inputs: tuple[Any, ...], layout: torch.memory_format) -> tuple[Any, ...]:
    def lay_out(value: Any) -> Any:
        return value.contiguous(memory_format=layout) if isinstance(value, Tensor) and value.ndim == 4 else value

    return tree_map(lay_out, inputs)


def _choose(
    graph: Graph,
    inputs: tuple[Any, ...],
    stays: Mapping[str, np.ndarray],
    layout: torch.memory_format,
    stopwatch: Stopwatch,
) -> tuple[LayerPlan, ...]:
    """Puts the fastest form in the place of every convolution with zeros, the last first: it may order the others."""
    given = recorded(graph.network, graph.convolutions(), inputs)
    stays = dict(stays)
    plans = []
    for name in reversed(graph.convolutions()):
        if name not in given or name not in stays or stays[name].all():
            continue
        producer = graph.producer(name)
        conv, values = graph.network.get_submodule(name), given[name][0]
        choice, measured_ms = _fastest_form(conv, stays[name], values, producer is not None, layout, stopwatch)
        plans.append(LayerPlan(name, choice.form, measured_ms))
        if choice.module is not None:
            graph.replace(name, choice.module)
        if choice.order is not None and producer is not None:
            graph.reorder(producer, choice.order)
            stays[producer.conv] = stays[producer.conv][list(choice.order)]
    graph.network.recompile()
    return tuple(reversed(plans))


@dataclass(frozen=True, eq=False)
class _Choice:
    """A form of a layer. module: None for the plain convolution. order: that it wants its inputs in, if any."""

    form: str
    module: nn.Module | None
    order: tuple[int, ...] | None


def _fastest_form(
    conv: Any, mask: np.ndarray, values: Tensor, ordered: bool, layout: torch.memory_format, stopwatch: Stopwatch
) -> tuple[_Choice, dict[str, float]]:
    """Measures a convolution and its forms. values: an input of it. ordered: its inputs' order can be chosen.

    Returns the fastest, and milliseconds by form (the best of those of one name).
    """
    outputs = conv(values)
    layer = MaskedLayer(
        Geometry.of(conv),
        mask,
        conv.groups,
        values.shape[0],
        values[0, 0].numel(),
        outputs[0, 0].numel(),
        ordered,
    )
    choices = [_Choice(DENSE, None, None)]
    calls: list[Callable[[], object]] = [partial(flattened(conv), values)]
    for form in forms(layer):
        order = form.order if ordered and form.order != tuple(range(layer.inputs)) else None
        module = flattened(lowered_conv(conv, form, given=order is not None)).to(memory_format=layout)
        given = values if order is None else _laid_out((values[:, list(order)],), layout)[0]
        choices.append(_Choice(form.name, module, order))
        calls.append(partial(module, given))
    times = stopwatch(calls) if len(calls) > 1 else [0.0]
    best = times.index(min(times))
    if times[best] > ADVANTAGE * times[0]:
        best = 0
    measured_ms: dict[str, float] = {}
    for choice, seconds in zip(choices, times, strict=True):
        measured_ms[choice.form] = min(1e3 * seconds, measured_ms.get(choice.form, math.inf))
    return choices[best], measured_ms


def lowered_conv(conv: Any, form: Form, given: bool = False) -> LoweredConv:
    """A convolution in one of its forms. given: its inputs come in the form's order already."""
    inputs = None if given else conv.in_channels
    return LoweredConv(Geometry.of(conv), form.blocks, conv.weight.detach(), conv.bias, inputs).eval()


def _module_by_module(
    model: nn.Module, inputs: tuple[Any, ...], stays: Mapping[str, np.ndarray], stopwatch: Stopwatch
) -> Lowered:
    """Of a network that cannot be traced: every convolution's form by itself, batch norms folded within Sequentials."""
    _fold_in_sequentials(model)
    names = [name for name, module in model.named_modules() if is_plain_conv(module)]
    plans = []
    for name, (values, *_) in recorded(model, names, inputs).items():
        if name not in stays or stays[name].all():
            continue
        choice, measured_ms = _fastest_form(
            model.get_submodule(name), stays[name], values, False, torch.contiguous_format, stopwatch
        )
        plans.append(LayerPlan(name, choice.form, measured_ms))
        if choice.module is not None and name:
            model.set_submodule(name, choice.module)
    return Lowered(model, tuple(plans))


def _fold_in_sequentials(model: nn.Module) -> None:
    uses: dict[nn.Module, int] = {}
    for parent in model.modules():
        for child in parent.children():
            uses[child] = uses.get(child, 0) + 1
    for parent in list(model.modules()):
        if type(parent) is not nn.Sequential:
            continue
        for (name, layer), (norm_name, norm) in zip(
            list(parent.named_children()), list(parent.named_children())[1:], strict=False
        ):
            is_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm)
            if is_norm and uses[layer] == uses[norm] == 1 and can_fold(layer, norm):
                setattr(parent, name, folded(layer, norm))
                setattr(parent, norm_name, nn.Identity())
