"""Discovery of a search space: the network is followed once, its feature maps are grouped, and the plan is proved."""

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from evoprune.config.choices import StrideSharing
from evoprune.config.loading import validated
from evoprune.config.schema import SpaceConfig
from evoprune.discovery.forward_passes import (
    batch_size,
    check_devices,
    check_outputs,
    follow_branches,
    follow_network,
    outputs_of,
    proof_copy,
)
from evoprune.discovery.grouping import freeze_kept_layers, group
from evoprune.discovery.influence import UNSEEN, unseen_groups
from evoprune.discovery.labels import MapLabels
from evoprune.discovery.operations import follow
from evoprune.discovery.proof import TOLERANCE, TOLERANCE_SINGLE, Forward, Proof, prove
from evoprune.discovery.tracing import Tracer
from evoprune.discovery.unrun import freeze_around_unrun
from evoprune.errors import SearchSpaceError
from evoprune.space.kernel_genes import KernelLayer, kernel_genes, stride_genes
from evoprune.space.outside_tensors import OutsideTensors
from evoprune.space.plan import Frozen, Layer, TensorInfo
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import in_type

logger = logging.getLogger(__name__)


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
    """The search space of a network, with genes of all kinds that the options ask for.

    Args:
        model: Any module; it is copied, never changed.
        example_input: A tensor (batch, channels, h, w), or a tuple of the forward's arguments.
        options: The config's section `space`.

    Raises:
        SearchSpaceError: As of `explore`, or if nothing can be removed.
    """
    space = with_kernel_genes(explore(model, example_input, options).space, options)
    if not space.genes:
        why = "; ".join(f"{part.name}: {part.reason}" for part in space.frozen[:3])
        raise SearchSpaceError(f"the network has no part that may go ({why or 'no convolution or hidden layer'})")
    return space


def with_kernel_genes(space: SearchSpace, options: SpaceConfig) -> SearchSpace:
    """The search space with genes of kernels and strides. They only zero weights, so there is nothing to prove.

    Raises:
        SearchSpaceError: If a block is larger than a layer, or a stride does not fit a kernel.
    """
    convolutions = [layer for layer in space.layers if "convolution" in layer.kind and not layer.computed]
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
    """The proved plan of feature maps, with the largest difference that the proof met.

    Parts that cannot be proved stay whole; they are named in `frozen` with the reason.

    Args:
        model: Any module; it is copied, never changed.
        example_input: A tensor (batch, channels, h, w), or a tuple of the forward's arguments.
        options: The config's section `space`.

    Raises:
        SearchSpaceError: If the forward fails, the example lies on another device, or the outputs hold no tensor, are
            not finite, or differ between two equal passes.
    """
    example = example_input if isinstance(example_input, tuple) else (example_input,)
    check_devices(model, example)
    subject = proof_copy(model, example)
    network, inputs = subject.network(), subject.inputs
    labels = MapLabels()
    tracer = Tracer(network, labels, batch_size(inputs), follow)
    check_outputs(subject.outputs, follow_network(tracer, network, inputs))
    branches = follow_branches(tracer, network, inputs)
    labels = labels.with_new_axes(branches.tracer.labels)
    layers = _layers(tracer, branches.tracer)
    freeze_kept_layers(labels, layers, options)
    unrun = freeze_around_unrun(labels, network, (tracer, branches.tracer))
    grouping = group(labels, layers, options)
    whole_modules = branches.tracer.whole_modules | tracer.whole_modules
    space = SearchSpace(
        groups=grouping.groups,
        axes=grouping.axes,
        layers=layers,
        norms=tuple((branches.tracer.norms | tracer.norms).values()),
        tensors=_tensor_infos(model),
        frozen=(*grouping.frozen, *(Frozen(name, reason) for name, reason in whole_modules.items()), *unrun),
        fixed_macs=tracer.fixed_macs,
    )
    places = tracer.outside.with_branches(branches.tracer.outside)
    records = [make(grouping.genes(labels.resolve(maps).numpy())) for make, maps in places]
    widths = [
        make(grouping.genes(labels.resolve(maps).numpy()))
        for make, maps in (branches.tracer.outside.other_sizes | tracer.outside.other_sizes).values()
    ]
    forwards: list[Forward] = [partial(outputs_of, inputs=inputs)]
    if branches.forward is not None:
        forwards.append(branches.forward)
    tolerance = TOLERANCE if tracer.exact and branches.tracer.exact else TOLERANCE_SINGLE
    for followed in (tracer, branches.tracer):
        followed.forget_network()
    del network  # it takes twice the memory of the stored one
    unseen = unseen_groups(subject.network_in(torch.float32), space, tree_map(partial(in_type, torch.float32), inputs))
    if unseen.idle:
        logger.warning(
            "not proved, because the outputs on the example input do not depend on them: %s; give an example of real "
            "images",
            ", ".join(sorted(unseen.idle)),
        )

    def proved(records: Sequence[OutsideTensors]) -> Proof:
        """The proved plan with these records; groups in which a fault could hide stay whole."""
        plan = space.with_outside_tensors(records)
        plan = plan.without(unseen.faint, UNSEEN) if unseen.faint else plan
        return prove(subject.stored, plan, forwards, tolerance, dtype=subject.dtype)

    plain = proved(records)
    if not any((record.gene >= 0).any() for record in widths) or _failed_none(plain.space, space, unseen.faint):
        return plain
    # Groups that failed may have failed because an attribute holds their width.
    wide = proved([*records, *widths])
    return wide if wide.space.maps > plain.space.maps else plain


def _failed_none(proved: SearchSpace, space: SearchSpace, faint: frozenset[str]) -> bool:
    """Whether all groups but the faint ones passed the proof."""
    return proved.maps == sum(group.size for group in space.groups if group.name not in faint)


def _layers(tracer: Tracer, branches: Tracer) -> tuple[Layer, ...]:
    """All layers in the order of the forward pass; layers of training branches alone cost no MACs."""
    extra = {weight: replace(layer, positions=0) for weight, layer in branches.layers.items()}
    return tuple((extra | tracer.layers).values())


def _tensor_infos(model: nn.Module) -> tuple[TensorInfo, ...]:
    """All parameters and buffers; buffers that are not persistent take no stored bytes."""

    def info(name: str, tensor: Tensor, parameter: bool) -> TensorInfo:
        return TensorInfo(name, tuple(tensor.shape), tensor.element_size() if name in stored else 0, parameter)

    stored = model.state_dict(keep_vars=True).keys()
    return (
        *(info(name, tensor, True) for name, tensor in model.named_parameters()),
        *(info(name, tensor, False) for name, tensor in model.named_buffers()),
    )
