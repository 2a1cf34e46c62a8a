"""From any network to its search space: followed once, grouped, proved."""

import fnmatch
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from evoprune.config.loading import validated
from evoprune.config.schema import SpaceConfig, StrideSharing
from evoprune.discovery.labels import CONSTANT, Labels
from evoprune.discovery.operations import follow
from evoprune.discovery.proof import TOLERANCE, TOLERANCE_SINGLE, Proof, prove, relative_difference
from evoprune.discovery.tracing import Tracer, tensors_of
from evoprune.errors import SearchSpaceError, first_line
from evoprune.space.kernel_genes import KernelLayer, kernel_genes, stride_genes
from evoprune.space.plan import Axis, Frozen, Group, Layer, TensorInfo
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, named_tensors


def search_space(
    model: nn.Module,
    example_input: Any,
    *,
    feature_maps: bool = True,
    kernels: bool = False,
    strides: bool = False,
    keep_first_conv: bool = False,
    keep: Sequence[str] = (),
    min_maps: int = 1,
    round_to: int = 1,
    kernel_block: int = 1,
    stride_sharing: StrideSharing = "input_map",
    strides_allowed: Sequence[tuple[int, int]] | None = None,
) -> SearchSpace:
    """Finds the parts of a network that can be removed, and proves on the network that they can.

    The options are those of the config's section `space`, with the same defaults.

    Args:
        model: Any module. It is copied, never changed.
        example_input: A tensor (batch, channels, h, w), or a tuple of the forward's arguments.
        feature_maps: Search over feature maps and hidden linear units.
        kernels: Search over kernels.
        strides: Search over kernel-stride masks.
        keep_first_conv: Keep the first convolution whole, as in the papers.
        keep: Name patterns of layers that stay whole, such as `layer4.*`.
        min_maps: Smallest number of feature maps that a group keeps.
        round_to: Widths are multiples of this number of feature maps.
        kernel_block: Number of output maps whose kernels from one input map share a gene.
        stride_sharing: Kernels that share a mask: `input_map` (all that leave one input map, Anwar's constraint),
            `layer` or `kernel`.
        strides_allowed: Masks to choose from besides the dense one, as (start, stride); None: all that fit the kernel.

    Returns:
        The search space: plain, picklable data without the network.

    Raises:
        SearchSpaceError: If nothing can be removed, or the network does not run on the example.
        ConfigError: If an option has a value that is not allowed.

    Example:
        >>> space = ep.search_space(model, torch.zeros(1, 3, 32, 32), keep_first_conv=True)
        >>> genome = space.random(numpy.random.default_rng(0), keep=0.5)
    """
    options = {
        "feature_maps": feature_maps,
        "kernels": kernels,
        "strides": strides,
        "keep_first_conv": keep_first_conv,
        "keep": list(keep),
        "min_maps": min_maps,
        "round_to": round_to,
        "kernel_block": kernel_block,
        "stride_sharing": stride_sharing,
        "strides_allowed": None if strides_allowed is None else [list(pair) for pair in strides_allowed],
    }
    return discover(model, example_input, validated(SpaceConfig, options, source="search_space"))


def discover(model: nn.Module, example_input: Any, options: SpaceConfig) -> SearchSpace:
    """The search space of a network: `explore` without what was measured on the way. Raises SearchSpaceError."""
    space = with_kernel_genes(explore(model, example_input, options).space, options)
    if not space.genes:
        why = "; ".join(f"{part.name}: {part.reason}" for part in space.frozen[:3])
        raise SearchSpaceError(f"the network has no part that may go ({why or 'no convolution or hidden layer'})")
    return space


def with_kernel_genes(space: SearchSpace, options: SpaceConfig) -> SearchSpace:
    """The search space with genes of kernels and strides. They change weights in place, so there is nothing to prove.

    Raises SearchSpaceError where a block is larger than a layer, or a stride does not fit a kernel.
    """
    convolutions = [layer for layer in space.layers if "convolution" in layer.kind]
    layers = [
        KernelLayer(
            layer.name,
            layer.weight,
            (layer.shape[layer.out_dim], layer.shape[layer.in_dim]),
            layer.shape[2:],
            1 if "transposed" in layer.kind else layer.groups,
        )
        for place, layer in enumerate(convolutions)
        if not (options.keep_first_conv and place == 0)
        and not any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in options.keep)
    ]
    kernels = kernel_genes(layers, space.maps, options.kernel_block) if options.kernels else ()
    start = space.maps + sum(genes.size for genes in kernels)
    strides = stride_genes(layers, start, options.stride_sharing, options.strides_allowed) if options.strides else ()
    return replace(space, kernels=kernels, strides=strides)


def explore(model: nn.Module, example_input: Any, options: SpaceConfig) -> Proof:
    """Which maps can go, together with what, proved on a probe input, and how far the proof's outputs lay apart.

    model: any module; it is copied, never changed. example_input: a tensor (batch, channels, h, w), or a tuple of
    the forward's arguments. What cannot be proved stays whole and is named in `frozen` with the reason.
    Raises SearchSpaceError where the forward fails, the example lies on another device, or the outputs are not
    the same twice, not finite, or hold no tensor.
    """
    example = example_input if isinstance(example_input, tuple) else (example_input,)
    _check_devices(model, example)
    network, inputs, expected = _proof_copy(model, example)
    labels = Labels()
    tracer = Tracer(network, labels, _batch(inputs), follow)
    _check_outputs(expected, _follow(tracer, network, inputs))
    forwards = [partial(_outputs, inputs=inputs)]
    branches = Tracer(network, labels, _batch(inputs), follow)
    if _has_branches(tracer, branches, network, inputs):
        forwards.append(partial(_branch_outputs, inputs=inputs))
    layers = _layers(tracer, branches)
    _keep_layers(labels, layers, options)
    groups, axes, frozen = _group(labels, layers, options)
    space = SearchSpace(
        groups=groups,
        axes=axes,
        layers=layers,
        norms=tuple((branches.norms | tracer.norms).values()),
        tensors=_tensor_infos(model),
        frozen=frozen + tuple(Frozen(*row) for row in (branches.whole | tracer.whole).items()),
        fixed_macs=tracer.fixed_macs,
    )
    tolerance = TOLERANCE if tracer.exact and branches.exact else TOLERANCE_SINGLE
    return prove(network, space, forwards, tolerance)


def _check_devices(model: nn.Module, example: tuple[Any, ...]) -> None:
    devices = {tensor.device for _, tensor in named_tensors(model)}
    if torch.device("meta") in devices:
        raise SearchSpaceError("the network is on the meta device, without weights; load them first")
    for tensor in tensors_of(example):
        if devices and tensor.device not in devices:
            raise SearchSpaceError(
                f"the example input is on {tensor.device} and the network on {devices.pop()}; move one to the other"
            )


def _proof_copy(model: nn.Module, example: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...], Any]:
    """A copy in float64 on the CPU where the network runs so, else in float32, else as it is.

    Returns the copy, its inputs and its outputs.
    """
    problem: Exception | None = None
    for dtype in (torch.float64, torch.float32, None):
        network = copied(model).cpu().eval()
        inputs = tree_map(lambda value: value.detach().cpu() if isinstance(value, Tensor) else value, example)
        if dtype is not None:
            network = network.to(dtype)
            inputs = tree_map(
                lambda value, dtype=dtype: (
                    value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
                ),
                inputs,
            )
        _stir(network)
        try:
            return network, inputs, _outputs(network, inputs)
        except Exception as error:  # whatever the user's forward raises, named below
            problem = error
    assert problem is not None
    shapes = ", ".join(str(tuple(value.shape)) for value in tensors_of(example))
    raise SearchSpaceError(
        f"the network's forward fails on an example input of shape {shapes}: "
        f"{type(problem).__name__}: {first_line(problem)}"
    ) from problem


def _stir(network: nn.Module) -> None:
    """Moves parameters that are all alike (zero heads, unit scales) off that value: a proof on zeros proves nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.min() != tensor.max():
                continue
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
            if tensor.ndim > 1:
                tensor.add_((noise - 0.5) * (12 / tensor[0].numel()) ** 0.5)
            else:
                tensor.add_(0.2 * noise)


def _outputs(network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return network(*inputs)


def _branch_outputs(network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad(), training_branches(network):
        return network(*inputs)


def _batch(inputs: tuple[Any, ...]) -> int:
    return next((tensor.shape[0] for tensor in tensors_of(inputs) if tensor.ndim), 1)


def _check_outputs(first: Any, second: Any) -> None:
    """Outputs are tensors, finite, and the same twice."""
    if not tensors_of(first):
        raise SearchSpaceError(
            f"the network returns no tensor but {type(first).__name__}; let its forward return a tensor, "
            "or a tuple, list, dict or data class of tensors"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors_of(first)):
        raise SearchSpaceError("the network's outputs are not finite on the example input; give another one")
    if relative_difference(first, second) > TOLERANCE_SINGLE:
        raise SearchSpaceError("the network gives other outputs for the same input in eval mode; make it deterministic")


@contextmanager
def training_branches(model: nn.Module) -> Iterator[None]:
    """Modules that hold others are in training mode, layers themselves in eval mode: auxiliary heads run, no noise."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = any(True for _ in module.children())
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _follow(tracer: Tracer, network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    with _open_attention(), tracer.following(network):
        outputs = network(*inputs)
        tracer.freeze_outputs(outputs)
    return outputs


def _has_branches(tracer: Tracer, branches: Tracer, network: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Follows the network with its training branches (auxiliary heads). Whether they run, and do something."""
    if not any(True for _ in network.children()):
        return False
    try:
        with training_branches(network):
            outputs = _follow(branches, network, inputs)
        if branches.operations == tracer.operations:
            return False
        again = _branch_outputs(network, inputs)
    except Exception:  # a network that cannot run its training branches is proved without them
        return False
    return relative_difference(outputs, again) <= TOLERANCE_SINGLE


def _layers(tracer: Tracer, branches: Tracer) -> tuple[Layer, ...]:
    """All layers in the order they run; those of training branches alone cost no MACs."""
    extra = {weight: replace(layer, positions=0) for weight, layer in branches.layers.items()}
    return tuple((extra | tracer.layers).values())


@contextmanager
def _open_attention() -> Iterator[None]:
    """Attention in its single products, not as one opaque operation, which could be neither followed nor counted."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _keep_layers(labels: Labels, layers: Sequence[Layer], options: SpaceConfig) -> None:
    """Freezes what the user wants whole. Raises SearchSpaceError where a pattern names no layer."""
    for pattern in options.keep:
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers[:6])
            raise SearchSpaceError(f"space.keep: {pattern} names no layer; there are {names} ...")
    first = next((layer.name for layer in layers if "convolution" in layer.kind), None)
    for layer in layers:
        rows = labels.axes.get((layer.weight, layer.out_dim))
        if rows is None:
            continue
        if not options.feature_maps:
            labels.freeze(rows, "space.feature_maps is false")
        elif options.keep_first_conv and layer.name == first:
            labels.freeze(rows, "space.keep_first_conv keeps it")
        elif named := [pattern for pattern in options.keep if fnmatch.fnmatchcase(layer.name, pattern)]:
            labels.freeze(rows, f"space.keep names it ({named[0]})")


def _group(
    labels: Labels, layers: Sequence[Layer], options: SpaceConfig
) -> tuple[tuple[Group, ...], tuple[Axis, ...], tuple[Frozen, ...]]:
    """Classes of labels that lie along the same axes make a group; every class is a gene."""
    roots = {place: labels.resolve(axis).numpy() for place, axis in labels.axes.items()}
    places_of: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for place, classes in roots.items():
        for root in np.unique(classes).tolist():
            places_of[root].append(place)
    producers = {(layer.weight, layer.out_dim): layer.name for layer in layers}
    members: dict[tuple[tuple[str, int], ...], dict[int, None]] = {}  # places -> classes, in order
    frozen: dict[str, str] = {}
    for place in producers:
        for root in dict.fromkeys(roots.get(place, np.zeros(0, int)).tolist()):
            reason = labels.reason(root) if root != CONSTANT else "it goes together with something constant"
            if reason is None:
                members.setdefault(tuple(places_of[root]), {})[root] = None
            else:
                frozen.setdefault(producers[place], reason)
    gene_of: dict[int, int] = {}
    groups: list[Group] = []
    for places, together in members.items():
        names = tuple(dict.fromkeys(producers[place] for place in places if place in producers))
        reason = _indivisible(len(together), options)
        if reason is not None:
            frozen = dict.fromkeys(names, reason) | frozen
            continue
        name, start = _unique_name(names, groups), len(gene_of)
        groups.append(Group(name, start, len(together), names, max(options.min_maps, 1), options.round_to))
        gene_of |= {root: start + place for place, root in enumerate(together)}
    axes = []
    for (tensor, dim), classes in roots.items():
        gene = np.array([gene_of.get(root, -1) for root in classes.tolist()], dtype=np.int32)
        if (gene >= 0).any():
            axes.append(Axis(tensor, dim, gene))
    return tuple(groups), tuple(axes), tuple(Frozen(name, reason) for name, reason in frozen.items())


def _indivisible(size: int, options: SpaceConfig) -> str | None:
    """Why a group of so many genes has no smaller width; None where it has one."""
    if size < 2:
        return "its maps can only go all together"
    if size <= options.min_maps:
        return f"it has no more than the {options.min_maps} maps of space.min_maps"
    if size <= options.round_to:
        return f"it has no more than the {options.round_to} maps of space.round_to"
    return None


def _unique_name(layers: tuple[str, ...], groups: Sequence[Group]) -> str:
    name = layers[0] if len(layers) == 1 else f"{layers[0]} (+{len(layers) - 1})"
    taken = {group.name for group in groups}
    return (
        name
        if name not in taken
        else next(f"{name} #{i}" for i in range(2, len(taken) + 3) if f"{name} #{i}" not in taken)
    )


def _tensor_infos(model: nn.Module) -> tuple[TensorInfo, ...]:
    def info(name: str, tensor: Tensor, parameter: bool) -> TensorInfo:
        return TensorInfo(name, tuple(tensor.shape), tensor.element_size(), parameter)

    stored = model.state_dict(keep_vars=True).keys()
    return (
        *(info(name, tensor, True) for name, tensor in model.named_parameters()),
        *(info(name, tensor, False) for name, tensor in model.named_buffers() if name in stored),
    )
