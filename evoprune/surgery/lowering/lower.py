"""Lowering: masks turned into speed. Each convolution takes the form that is fastest on the present machine."""

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

from evoprune.discovery.forward_passes import forward_failure
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
"""Largest share of the plain convolution's time that a form may take to be chosen."""

TOLERANCE = 1e-3
"""Largest difference of lowered outputs relative to their scale that rounding explains, in float32 or better."""

DENSE = "dense"

FEW_MAPS = 4
"""Up to so many input maps per group, the contiguous layout can be faster than channels-last."""


@dataclass(frozen=True)
class LayerPlan:
    """The form chosen for a convolution. measured_ms: milliseconds of each form, by name."""

    layer: str
    form: str
    measured_ms: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Lowered:
    """A lowered network, and the choice for each convolution that has zeros."""

    network: nn.Module
    plans: tuple[LayerPlan, ...]

    @property
    def forms(self) -> str:
        """All lowered layers with their forms, as `conv2: shifted 3x1, conv3: 3 blocks`."""
        return ", ".join(f"{plan.layer}: {plan.form}" for plan in self.plans if plan.form != DENSE)


def lower(
    model: nn.Module,
    space: SearchSpace,
    genome: Genome,
    example_input: Any,
    *,
    stopwatch: Stopwatch = seconds_a_call,
) -> nn.Module:
    """A compacted copy of the network in which masked convolutions are computed as a few dense ones.

    Each convolution takes the form that is measured as fastest on the example input; the plain convolution with zeros
    is one of the forms. Batch norms that directly follow a layer are folded into it.

    Args:
        model: The network that the search space was made from; not changed.
        space: Its search space.
        genome: uint8 (genes,).
        example_input: A tensor (batch, channels, h, w) or a tuple of the forward's arguments: what is timed.
        stopwatch: Measures the forms.

    Returns:
        An ordinary module in eval mode with the outputs of `ep.mask` and `ep.compact`, up to rounding.

    Raises:
        SearchSpaceError: If the genome or the network is not of this search space, or the network does not run on the
            example input.

    Example:
        >>> space = ep.search_space(model, images[:1], strides=True)
        >>> fast = ep.lower(model, space, space.random(numpy.random.default_rng(0)), images[:1])
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
    """Lowers a network that is compacted already, with zeros for masked weights, as survivors are.

    Args:
        model: Not changed.
        example_input: A tensor or a tuple of the forward's arguments: what is timed.
        masks: Weight name -> bool of the weight's shape, the weights that stay; in layers without a mask, those that
            are not zero.
        keep_plain: Convolutions keep their zeros; everything else is done in the same way.
        stopwatch: Measures the forms.
    """
    model = copied(model).eval()
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    stays = {} if keep_plain else _layer_masks(model, masks or {})
    with torch.no_grad():
        expected = _outputs_of(model, inputs)
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


def _outputs_of(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        return model(*inputs)
    except Exception as error:  # any exception of the user's forward
        raise forward_failure(error, inputs) from error


def _layer_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The weights of each plain convolution that stay: layer -> bool (outputs, inputs per group, taps)."""
    found = {}
    for name, module in model.named_modules():
        if is_plain_conv(module):
            weight: Any = module.weight
            mask = masks.get(f"{name}.weight" if name else "weight", weight != 0)
            found[name] = mask.flatten(2).cpu().numpy()
    return found


def _graph(model: nn.Module, inputs: Sequence[Any], expected: Any) -> Graph | None:
    """The network's graph, folded; None if it cannot be traced, or computes anything else than the network."""
    try:
        graph = Graph(model)
        outputs = graph.copy().flat(inputs).forward(*inputs)  # a call would print what it raises
    except Exception:  # any exception of tracing a user's forward
        return None
    return graph if relative_difference(expected, outputs) <= TOLERANCE else None


def _fastest_layout(
    graph: Graph, inputs: tuple[Any, ...], stopwatch: Stopwatch
) -> tuple[fx.GraphModule, torch.memory_format]:
    """The plain network in the fastest memory layout, and the layout. The graph gets it, too."""
    candidates = []
    for layout in (torch.channels_last, torch.contiguous_format):
        dense = graph.copy().flat(inputs)
        try:
            dense.to(memory_format=layout)
            given = _laid_out(inputs, layout)
            dense.forward(*given)  # a call would print what it raises
        except RuntimeError:  # views of maps as vectors and tensors of five dimensions need the contiguous layout
            continue
        candidates.append((layout, dense, partial(dense, *given)))
    times = stopwatch([call for *_, call in candidates])
    layout, dense, _ = candidates[times.index(min(times))]
    graph.network.to(memory_format=layout)
    return dense, layout


def _mix_layouts(
    network: fx.GraphModule, inputs: tuple[Any, ...], layout: torch.memory_format, stopwatch: Stopwatch
) -> fx.GraphModule:
    """The network with the contiguous layout for layers that read few maps (images), if that is faster.

    A convolution computes in the layout of its weight, and channels-last gains little with few maps.
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
    """Replaces each convolution with zeros by its fastest form; the last one first, because it can reorder others."""
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
    """A form of a layer. module: None for the plain convolution. order: of its inputs, if it needs one."""

    form: str
    module: nn.Module | None
    order: tuple[int, ...] | None


def _fastest_form(
    conv: Any, mask: np.ndarray, values: Tensor, ordered: bool, layout: torch.memory_format, stopwatch: Stopwatch
) -> tuple[_Choice, dict[str, float]]:
    """Measures a convolution and its forms.

    Args:
        conv: The convolution.
        mask: bool (outputs, inputs per group, taps), the weights that stay.
        values: An input of it.
        ordered: Whether the layer before can make the inputs in any order.
        layout: Memory layout of the network.
        stopwatch: Measures the forms.

    Returns:
        The fastest form, and milliseconds by form (the best of forms of equal name).
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
    """A convolution in one of its forms. given: whether its inputs come in the form's order already."""
    inputs = None if given else conv.in_channels
    return LoweredConv(Geometry.of(conv), form.blocks, conv.weight.detach(), conv.bias, inputs).eval()


def _module_by_module(
    model: nn.Module, inputs: tuple[Any, ...], stays: Mapping[str, np.ndarray], stopwatch: Stopwatch
) -> Lowered:
    """Lowers a network that cannot be traced: each convolution by itself, with batch norms folded in Sequentials."""
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
