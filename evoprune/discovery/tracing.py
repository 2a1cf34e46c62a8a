"""A forward pass followed operation by operation, with the feature map that each element belongs to.

Each tensor has a shadow of the same shape that holds labels instead of numbers. Operations that move data (views,
concatenation, splits, shuffles) move the shadow in the same way; operations that combine elements merge their labels;
convolutions and linear layers read labels along one dimension and write new ones. An operation without a rule freezes
its inputs, so a missing rule makes a search space smaller, never wrong.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from evoprune.discovery.labels import CONSTANT, MapLabels, labels_along, stored_once, varying_dims
from evoprune.discovery.outside_places import MakeRecord, OutsidePlaces
from evoprune.space.plan import Layer, Norm


def tensors_of(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts and data classes."""
    leaves = tree_leaves(values)
    nested = (tensors_of(vars(leaf)) for leaf in leaves if is_dataclass(leaf) and not isinstance(leaf, type))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)] + [tensor for part in nested for tensor in part]


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        name: The operation's name, such as `convolution`.
        overload: The operation itself.
        inputs: Arguments by name.
        outputs: Tensors that it returned.
    """

    name: str
    overload: Any
    inputs: dict[str, Any]
    outputs: list[Tensor]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [value for value in tree_leaves(self.inputs) if isinstance(value, Tensor)]

    @property
    def output(self) -> Tensor:
        """The first output."""
        return self.outputs[0]


class Tracer(TorchDispatchMode):
    """Follows every operation while it is active, and collects labels, layers and normalisations.

    Args:
        model: The network; its parameters and buffers are known by name.
        labels: Receives labels, axes and reasons.
        batch: Number of images in the example input.
        follow: Applies the rule of one operation (`evoprune.discovery.operations.follow`).

    Attributes:
        layers: Weight -> layer, in the order of the forward pass.
        norms: Module -> normalisation over maps.
        fixed_macs: Multiply-accumulates per image outside of layers.
        operations: Number of operations.
        exact: Whether all operations computed in float64.
        whole_modules: Modules without a layer of their own that stay whole, with reasons.
        read: Names of the parameters and buffers that an operation has read.
        seen: Module that ran -> labels of the tensors that its own forward saw: its inputs, and what its operations and
            its children returned.
        outside: Places outside of tensors where maps matter.
        sources: Tensor without labels -> parameters whose elements it holds (`discovery.parameter_sources`).
        data: Tensors that depend on the network's inputs.
        filters: Tensors that are made of parameters alone (`discovery.filters.Filter`).
    """

    def __init__(self, model: nn.Module, labels: MapLabels, batch: int, follow: "Follow"):
        super().__init__()
        self.labels = labels
        self.follow = follow
        self._uses = 0
        self.layers: dict[str, Layer] = {}
        self.norms: dict[str, Norm] = {}
        self.fixed_macs = 0
        self.operations = 0
        self.exact = True
        self.whole_modules: dict[str, str] = {}
        self.read: set[str] = set()
        self.seen: dict[str, list[Tensor]] = {"": []}
        self.data = WeakTensorKeyDictionary()
        self.filters = WeakTensorKeyDictionary()
        self._parts: dict[tuple[str, int], Tensor] = {}  # labels of parameters that filters are made of, not bound yet
        self._tensors = dict((*model.named_parameters(), *model.named_buffers()))
        self._normalised: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
        self.modules = dict(model.named_modules())
        self.batch = batch
        self._names = WeakTensorKeyDictionary()  # parameter or buffer -> name
        self._transposed = WeakTensorKeyDictionary()  # transposed view of a weight -> its name
        self._shadows = WeakTensorKeyDictionary()  # tensor -> labels of its elements
        self.outside = OutsidePlaces(self.modules)
        self._frozen_if_read = WeakTensorKeyDictionary()  # tensor -> labels, and a reason
        self.sources = WeakTensorKeyDictionary()  # tensor without labels -> parameters whose elements it holds
        self._where: list[str] = []
        self._module_inputs: dict[str, Tensor] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names[tensor] = name

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Follows operations, and knows the module that each one belongs to."""

        def enter(name: str):
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                self._where.append(name)
                self._see(tensors_of(args))
                if isinstance(module, nn.LayerNorm | nn.GroupNorm) and args and isinstance(args[0], Tensor):
                    self._module_inputs[name] = args[0]

            return hook

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._check_normalised(args, output)
            self._where.pop()
            self._see(tensors_of(output))

        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave))
        try:
            with self, torch.no_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._where.clear()
            self._module_inputs.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        names = (argument.name for argument in func._schema.arguments)
        inputs = dict(zip(names, args, strict=False)) | kwargs
        call = Call(func._schema.name.partition("::")[2], func, inputs, outputs)
        self.read.update(name for tensor in call.tensors if (name := self.name(tensor)) is not None)
        for tensor in call.tensors:
            self._freeze_read(tensor)
        if not outputs:
            self.freeze_all(call, "its values are read outside of tensors")
        else:
            self.operations += 1
            self.exact &= all(leaf.dtype in _EXACT for leaf in outputs)
            uses = self._uses
            self.follow(self, call, args, kwargs)
            self._see(outputs)
            if self._uses == uses and (formula := flop_registry.get(func.overloadpacket)):
                self.fixed_macs += formula(*args, **kwargs, out_val=outputs[0]) // 2 // self.batch
        return result

    def forget_network(self) -> None:
        """Lets go of the followed network."""
        self.modules.clear()
        self._tensors.clear()

    def freeze_outputs(self, outputs: Any) -> None:
        """Freezes everything that the network returns."""
        for tensor in tensors_of(outputs):
            self._freeze_read(tensor)
            self.labels.freeze(self.shadow(tensor), "it is an output of the network")

    def shape(self, name: str) -> torch.Size:
        """The shape of a parameter or buffer."""
        return self._tensors[name].shape

    def is_parameter(self, name: str) -> bool:
        """Whether a name is that of a parameter, not of a buffer."""
        return isinstance(self._tensors[name], nn.Parameter)

    def part_labels(self, name: str, dim: int, size: int) -> Tensor:
        """The labels of a parameter that filters are made of, along one dimension: int64 (size,)."""
        if (name, dim) in self.labels.axes:
            return self.labels.resolve(self.labels.axes[name, dim])
        if (name, dim) not in self._parts:
            self._parts[name, dim] = self.labels.new(size)
        return self.labels.resolve(self._parts[name, dim])

    def bind_parts(self, names: Iterable[str]) -> None:
        """Binds parameters to the labels that they have as parts of a filter."""
        for place in [place for place in self._parts if place[0] in names]:
            self.labels.bind(*place, self._parts.pop(place), "")

    def note_normalised(self, dim: int, inputs: Tensor, outputs: Tensor) -> None:
        """Notes that the running module normalises the filter that reads `inputs` and makes `outputs` along `dim`."""
        self._normalised.setdefault(self.running_module, []).append((dim, inputs, outputs))

    def _check_normalised(self, args: tuple[Any, ...], output: Any) -> None:
        """Freezes a normalised filter unless its maps are those of the module's first argument and of its output."""
        for dim, inputs, outputs in self._normalised.pop(self.running_module, ()):
            for labels, value in ((inputs, args[0] if args else None), (outputs, output)):
                if not (isinstance(value, Tensor) and self._has_maps(value, dim, labels)):
                    self.freeze(torch.cat((inputs, outputs)), "its filter is normalised among other computations")

    def _has_maps(self, tensor: Tensor, dim: int, labels: Tensor) -> bool:
        return torch.equal(self.labels.resolve(labels), self.labels.resolve(self.along(tensor, dim)))

    def _see(self, tensors: list[Tensor]) -> None:
        """Notes the labels of tensors for the running module."""
        seen = self.seen.setdefault(self._where[-1] if self._where else "", [])
        seen += (self._shadows[tensor] for tensor in tensors if tensor in self._shadows)

    def shadow(self, tensor: Tensor) -> Tensor:
        """The class of each element of a tensor: int64 of its shape."""
        if tensor not in self._shadows:
            self._shadows[tensor] = torch.tensor(CONSTANT).expand(tensor.shape)
            name = self._names.get(tensor)
            if name is not None and (dim := _only_dim(tensor)) is not None:
                if (name, dim) not in self.labels.axes:
                    self.labels.bind(name, dim, self.labels.new(tensor.shape[dim]), "")
                self._shadows[tensor] = _along(self.labels.axes[name, dim], tensor.shape, dim)
        self._shadows[tensor] = shadow = self.labels.resolve(self._shadows[tensor])
        return shadow

    def set_shadow(self, tensor: Tensor, labels: Tensor) -> None:
        """Sets the labels of a tensor's elements. labels: int64 of its shape."""
        self._shadows[tensor] = stored_once(labels)

    def along(self, tensor: Tensor, dim: int) -> Tensor:
        """The classes of a tensor's positions along `dim`: int64 (size,). Maps along another dimension are frozen."""
        shadow = self.shadow(tensor)
        dim %= max(shadow.ndim, 1)
        if any(other != dim for other in varying_dims(shadow)):
            self.freeze(shadow, "its maps lie along a dimension that is read as pixels")
            shadow = torch.tensor(CONSTANT).expand(shadow.shape)
        return labels_along(shadow, dim)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Keeps the classes of these labels whole; the running module is added to the reason."""
        where = self._where[-1] if self._where else ""
        self.labels.freeze(labels, f"{reason} (in {where})" if where else reason)

    def freeze_if_read(self, tensor: Tensor, labels: Tensor, reason: str) -> None:
        """Keeps the classes of these labels whole if anything reads a tensor (the positions of maxima)."""
        self._frozen_if_read[tensor] = labels, reason

    def _freeze_read(self, tensor: Tensor) -> None:
        if tensor in self._frozen_if_read:
            self.freeze(*self._frozen_if_read[tensor])

    @property
    def running_module(self) -> str:
        """The name of the module whose forward runs; empty for the network itself."""
        return self._where[-1] if self._where else ""

    def count_call(self, operation: str) -> int:
        """Counts a call of an operation by the running module. Returns the number of calls before it."""
        return self.outside.count_call(self.running_module, operation)

    def add_product(self, make: MakeRecord, labels: Tensor) -> None:
        """Records a matrix product of maps, and that its multiply-accumulates are counted there."""
        self._uses += 1
        self.outside.products.append((make, labels))

    def freeze_module(self, reason: str) -> None:
        """Records the running module as one that stays whole."""
        if self._where:
            self.whole_modules.setdefault(self._where[-1] or type(self.modules[""]).__name__, reason)

    def has_complex_weights(self) -> bool:
        """Whether the running module has complex parameters, which operations read as pairs of real ones."""
        module = self.modules[self._where[-1]] if self._where else None
        return module is not None and any(parameter.is_complex() for parameter in module.parameters(recurse=False))

    def freeze_all(self, call: Call, reason: str) -> None:
        """Freezes all inputs of a call."""
        for tensor in call.tensors:
            self.freeze(self.shadow(tensor), reason)

    def name(self, tensor: Tensor | None) -> str | None:
        """The name of a parameter or buffer; None for other tensors."""
        return None if tensor is None else self._names.get(tensor)

    def owner(self, name: str | None) -> nn.Module | None:
        """The module that a parameter or buffer belongs to."""
        return None if name is None else self.modules.get(name.rpartition(".")[0])

    def attach(self, tensor: Tensor | None, labels: Tensor) -> None:
        """Gives a vector (bias, scale, running mean) these labels, int64 (size,), if it is a parameter or buffer."""
        if tensor is None:
            return
        name, dim = self.name(tensor), 0 if tensor.ndim == 1 else _only_dim(tensor)
        if name is not None and dim is not None:
            self.labels.bind(name, dim, labels, "a parameter is shared with something constant")
        else:
            self.labels.merge(self.shadow(tensor).reshape(-1), labels, "it meets something constant")

    def matrix(self, tensor: Tensor) -> tuple[str, int, int] | None:
        """Name, output and input dimension of a matrix factor that is a parameter; None for other tensors."""
        if tensor in self._transposed:
            return self._transposed[tensor], 0, 1
        name = self.name(tensor)
        return None if name is None or tensor.ndim != 2 else (name, 1, 0)

    def bind(self, weight: str, dim: int, labels: Tensor) -> None:
        """Gives the positions along a weight's dimension these labels, int64 (size,)."""
        self.labels.bind(weight, dim, labels, "it is read together with something constant")

    def output_labels(self, weight: str, dim: int, count: int) -> Tensor:
        """The labels of a weight's output maps, new at its first use: int64 (count,)."""
        if (weight, dim) not in self.labels.axes:
            self.labels.bind(weight, dim, self.labels.new(count), "")
        return self.labels.resolve(self.labels.axes[weight, dim])

    def add_uses(
        self, weight: str, kind: str, positions: int, shape: torch.Size, layout: dict[str, int], layer: str = ""
    ) -> None:
        """Adds `positions` uses of a weight (over the whole batch) to its layer.

        Args:
            weight: Name of the weight.
            kind: Of the layer.
            positions: Number of uses.
            shape: Of the weight.
            layout: Further fields of `Layer`.
            layer: Name of the layer; by default, that of the weight's module.
        """
        self._uses += 1
        known = self.layers.get(weight)
        name = layer or weight.removesuffix(".weight")
        before = known.positions if known else 0
        self.layers[weight] = Layer(
            name=name,
            weight=weight,
            kind=kind,
            shape=tuple(shape),
            positions=before + positions // self.batch,
            **layout,
        )

    def add_norm(self, weight: str, channels_per_group: int = 0) -> None:
        """Adds a normalisation module; its maps lie along the dimension of its input in which labels differ."""
        module = weight.rpartition(".")[0]
        dims = varying_dims(self.shadow(self._module_inputs[module])) if module in self._module_inputs else []
        if dims:
            self.norms[module] = Norm(module, weight, dims[0], channels_per_group)

    def note_transposed(self, view: Tensor, tensor: Tensor) -> None:
        """Records a transposed view of a parameter, so that `matrix` knows it."""
        name = self.name(tensor)
        if name is not None and tensor.ndim == 2:
            self._transposed[view] = name


_EXACT = frozenset(
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and (dtype == torch.float64 or not dtype.is_floating_point)
)

Follow = Callable[[Tracer, Call, tuple, dict], None]


def _only_dim(tensor: Tensor) -> int | None:
    """The only dimension larger than 1, of a vector of shape (C,), (C, 1, 1), ...; None if there are several."""
    dims = [dim for dim, size in enumerate(tensor.shape) if size > 1]
    return dims[0] if len(dims) == 1 else None


def _along(labels: Tensor, shape: torch.Size, dim: int) -> Tensor:
    return labels.reshape([-1 if other == dim else 1 for other in range(len(shape))]).expand(shape)
