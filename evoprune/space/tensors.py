"""A genome applied to the tensors of a module: removed positions set to zero (masking) or cut out (compaction)."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from evoprune.errors import SearchSpaceError, first_line
from evoprune.space.narrow_attention import NarrowMultiheadAttention, fit_attention
from evoprune.space.normalised_filters import over_kept
from evoprune.space.outside_tensors import kept
from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome, Layer
from evoprune.space.reductions import reduce_over_kept
from evoprune.space.search_space import SearchSpace


def copied(model: nn.Module, share_parameters: bool = False) -> nn.Module:
    """A deep copy of a network, also of one that holds computed tensors (old weight_norm).

    Args:
        model: Not changed.
        share_parameters: The copy has the same parameters; buffers, which a forward pass can change, are copied.

    Raises:
        SearchSpaceError: If the network is of a kind that cannot be changed, or cannot be copied.
    """
    check_changeable(model)
    computed = tree_leaves([vars(module) for module in model.modules()])
    memo: dict[int, Any] = {
        id(value): value.detach().clone() for value in computed if isinstance(value, Tensor) and not value.is_leaf
    }
    if share_parameters:
        memo |= {id(parameter): parameter for parameter in model.parameters()}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever the user's modules raise
        raise SearchSpaceError(
            f"the network cannot be copied ({type(error).__name__}: {first_line(error)}); "
            "make copy.deepcopy(model) work"
        ) from error


def change_type(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Gives a network tensors of its own, floating-point and complex ones of this type; None: of the same type."""
    changed = {name: in_type(dtype, tensor.detach()) for name, tensor in named_tensors(model)}
    same = {name for name, tensor in named_tensors(model) if changed[name].data_ptr() == tensor.data_ptr()}
    replace_tensors(model, {name: tensor.clone() if name in same else tensor for name, tensor in changed.items()})


def in_type(dtype: torch.dtype | None, value: Any) -> Any:
    """A floating-point tensor in this type, a complex one with parts of this type, anything else as it is."""
    if dtype is None or not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        return value.to(dtype)
    return value.to(dtype.to_complex()) if value.is_complex() else value


def check_changeable(model: nn.Module) -> None:
    """Raises SearchSpaceError for TorchScript, whose forward is fixed, and for lazy layers without shapes."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise SearchSpaceError(
                f"{name or 'the network'} is a TorchScript module, which cannot be followed or changed; "
                "give the module that it was scripted or traced from"
            )
    for name, tensor in named_tensors(model):
        if is_lazy(tensor):
            raise SearchSpaceError(
                f"{name} is not initialised yet, because its layer is lazy; run the network once on an example first"
            )


def zero(model: nn.Module, space: SearchSpace, genome: Genome) -> None:
    """Sets everything that the genome removes to zero, in place; all shapes stay.

    Weights that read a removed map are zero, too, so that the map contributes nothing, including its bias and its
    batch-norm shift. Layer and group norms, and other reductions over maps, are computed over the maps that stay (by
    forward hooks).
    """
    check_tensors(model, space)
    phenotype = space.check(genome)
    replace_tensors(model, zeroed_tensors(dict(named_tensors(model)), space, phenotype))
    for norm in space.norms:
        if not norm.channels_per_group and (norm.weight, 0) in phenotype.kept:
            hook = NormOverKept(torch.from_numpy(phenotype.kept[norm.weight, 0]), norm.dim)
            model.get_submodule(norm.module).register_forward_hook(hook)
    for layer in space.layers:
        if layer.normalised and any(name.startswith(f"{layer.name}.") for name, _ in phenotype.kept):
            module = model.get_submodule(layer.name)
            module.register_forward_hook(over_kept(layer, _cut_module(module, layer, phenotype), phenotype))
    reduce_over_kept(model, space, phenotype)  # after the others, whose hooks then run inside of their modules


def _cut_module(module: nn.Module, layer: Layer, phenotype: Phenotype) -> nn.Module:
    """A copy of a layer's module without the removed positions."""
    small, prefix = copied(module), f"{layer.name}."
    tensors = {f"{prefix}{name}": tensor for name, tensor in named_tensors(small)}
    cut = _cut_out(tensors, {place: kept for place, kept in phenotype.kept.items() if place[0] in tensors})
    replace_tensors(small, {name.removeprefix(prefix): tensor for name, tensor in cut.items()})
    weight = (tensors | cut)[layer.weight]
    _update_groups(small, layer, weight)
    for child in small.modules():
        _update_module(child)
    _update_computed(small, weight)
    return small


def zeroed_tensors(tensors: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """The tensors that lose positions or weights, in full shape with zeros there; detached copies."""
    result = _masked(tensors, space, phenotype)
    for (name, dim), index in phenotype.kept.items():
        if name not in result:
            result[name] = tensors[name].detach().clone()
        shape = [-1 if other == dim else 1 for other in range(result[name].ndim)]
        gone = torch.ones(result[name].shape[dim], dtype=torch.bool).index_fill(0, torch.from_numpy(index), False)
        result[name].masked_fill_(gone.reshape(shape).to(result[name].device), 0)
    return result


def cut(model: nn.Module, space: SearchSpace, genome: Genome) -> None:
    """Cuts everything that the genome removes out of the module's tensors, in place, and updates its sizes."""
    check_tensors(model, space)
    phenotype = space.check(genome)
    replace_tensors(model, cut_tensors(dict(named_tensors(model)), space, phenotype))
    update_sizes(model, space, phenotype)


def cut_tensors(tensors: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """The tensors that lose positions, without those, and the tensors that lose weights, with zeros; detached copies.

    Args:
        tensors: Tensors of the unpruned network by name.
        space: The search space.
        phenotype: A phenotype of this space.
    """
    masked = _masked(tensors, space, phenotype)
    return masked | _cut_out({**tensors, **masked}, phenotype.kept)


def _cut_out(tensors: Mapping[str, Tensor], kept: Mapping[tuple[str, int], np.ndarray]) -> dict[str, Tensor]:
    """The tensors that lose positions, without those."""
    result: dict[str, Tensor] = {}
    for (name, dim), index in kept.items():
        tensor = result.get(name, tensors[name]).detach()
        result[name] = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return result


def _masked(tensors: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """Copies of the weights that lose kernels or taps, with zeros there (even if the values were NaN)."""
    result = {}
    for weight in phenotype.kernels:
        goes = ~kernel_mask(space, phenotype, weight)
        result[weight] = tensors[weight].detach().masked_fill(goes.to(tensors[weight].device), 0)
    return result


def kernel_mask(space: SearchSpace, phenotype: Phenotype, weight: str) -> Tensor:
    """The weights that stay of a layer that loses kernels or taps: bool of the unpruned weight's shape."""
    layer = space.layer(weight)
    mask = torch.from_numpy(phenotype.kernels[weight])
    return mask.reshape(*mask.shape[:2], *layer.shape[2:]).movedim((0, 1), (layer.out_dim, layer.in_dim))


def cut_masks(space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """`kernel_mask` of each layer that loses kernels or taps, in the shape of the cut weight, by the weight's name."""
    masks = {weight: kernel_mask(space, phenotype, weight) for weight in phenotype.kernels}
    for (name, dim), index in phenotype.kept.items():
        if name in masks:
            masks[name] = masks[name].index_select(dim, torch.from_numpy(index))
    return masks


def replace_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replaces parameters and buffers by name, wherever modules share them; a parameter stays a parameter."""
    old = {id(tensor): (name, tensor) for name, tensor in named_tensors(model)}
    new = {
        name: nn.Parameter(tensors[name], requires_grad=tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensors[name]
        for name, tensor in old.values()
        if name in tensors
    }
    for module in model.modules():
        for attribute, value in (*module._parameters.items(), *module._buffers.items()):
            name, _ = old.get(id(value), ("", None))
            if name in new:
                setattr(module, attribute, new[name])


def update_sizes(model: nn.Module, space: SearchSpace, phenotype: Phenotype | None) -> None:
    """Sets the sizes that modules keep beside their tensors (channels, features, groups) to those of the tensors.

    Args:
        model: Changed in place.
        space: Its search space.
        phenotype: What its tensors were cut to; None: they have their full shapes.
    """
    for size in space.sizes:
        count = len(size.gene) if phenotype is None else len(kept(size.gene, phenotype.genome))
        module = model.get_submodule(size.module)
        value = getattr(module, size.attribute)
        setattr(module, size.attribute, count if isinstance(value, int) else type(value)([count]))
    tensors, modules = dict(named_tensors(model)), dict(model.named_modules())
    for layer in space.layers:
        if layer.channels_per_group:
            owner, _ = _owner(model, layer.weight)
            _update_groups(modules.get(layer.name, owner), layer, tensors[layer.weight])
    for norm in space.norms:
        if norm.channels_per_group:
            module, attribute = _owner(model, norm.weight)
            module.num_groups = getattr(module, attribute).shape[0] // norm.channels_per_group
    for module in model.modules():
        _update_module(module)
    for layer in space.layers:
        if layer.computed:
            _update_computed(modules.get(layer.name), tensors[layer.weight])


def _update_groups(module: Any, layer: Layer, weight: Tensor) -> None:
    """Sets the number of groups of a layer whose groups are genes, if its module has one."""
    if hasattr(module, "groups"):
        module.groups = weight.shape[0] // layer.channels_per_group if layer.channels_per_group else module.groups


def _update_computed(module: Any, weight: Tensor) -> None:
    """Sets the sizes of a layer's module by the weight that its filter is computed from in the next forward pass."""
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        _update_sizes_of(module, weight)


def _update_sizes_of(module: Any, weight: Tensor) -> None:
    """Sets the sizes of a convolution or linear layer by its weight."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    else:
        module.out_features, module.in_features = weight.shape


def size_of(module: nn.Module | None, attribute: str) -> int | None:
    """The number in an attribute that is an int, or a tuple or list of one; None if it is neither."""
    value = getattr(module, attribute, None)
    if isinstance(value, tuple | list) and len(value) == 1:
        (value,) = value
    return value if type(value) is int else None


def _update_module(module: nn.Module) -> None:
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        _update_sizes_of(module, module.weight)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        vector = module.weight if module.weight is not None else module.running_mean
        if vector is not None:
            module.num_features = vector.shape[0]
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = module.weight.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        if type(module) in (nn.MultiheadAttention, NarrowMultiheadAttention):
            fit_attention(module)
    elif isinstance(module, nn.RNNBase):
        module.input_size = module.get_parameter("weight_ih_l0").shape[1]
    elif isinstance(module, nn.RNNCellBase):
        module.input_size = module.weight_ih.shape[1]


@dataclass(frozen=True)
class NormOverKept:
    """A forward hook that computes a layer or group norm over the maps that stay, with zero elsewhere.

    Attributes:
        kept: int64, positions of the maps that stay.
        dim: Dimension of the module's input along which the maps lie.
    """

    kept: Tensor
    dim: int

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output of the module with these arguments, normalised anew."""
        kept = self.kept.to(output.device)
        values = args[0].index_select(self.dim, kept)
        scale, shift = (None if v is None else v.index_select(0, kept) for v in (module.weight, module.bias))
        if isinstance(module, nn.GroupNorm):
            normed = F.group_norm(values, module.num_groups, scale, shift, module.eps)
        else:
            last = values.movedim(self.dim, -1)
            normed = F.layer_norm(last, (len(kept),), scale, shift, module.eps).movedim(-1, self.dim)
        return torch.zeros_like(output).index_copy(self.dim, kept, normed)


def check_tensors(model: nn.Module, space: SearchSpace) -> None:
    """Raises SearchSpaceError if the model is not the one that the search space was made from."""
    tensors = dict(named_tensors(model))
    for info in space.tensors:
        if info.name not in tensors:
            raise SearchSpaceError(f"the search space is of another network: this one has no tensor {info.name}")
        shape = tuple(tensors[info.name].shape)
        if shape != info.shape:
            raise SearchSpaceError(
                f"the search space is of another network: {info.name} has shape {shape} here, {info.shape} there"
            )
    modules = dict(model.named_modules())
    for size in space.sizes:
        if size_of(modules.get(size.module), size.attribute) != len(size.gene):
            raise SearchSpaceError(
                f"the search space is of another network: {size.module}.{size.attribute} is not {len(size.gene)} here"
            )


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers by name; tied ones once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def weight_tensors(model: nn.Module, space: SearchSpace) -> dict[str, Tensor]:
    """The weight of each layer by name: a parameter, or a buffer (a fixed filter)."""
    tensors = dict(named_tensors(model))
    return {layer.weight: tensors[layer.weight] for layer in space.layers}


def _owner(model: nn.Module, name: str) -> tuple[Any, str]:
    module, _, attribute = name.rpartition(".")
    return model.get_submodule(module), attribute
