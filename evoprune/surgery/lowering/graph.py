"""A network as a graph of calls: batch norms folded, maps reordered in the layer before, and one flat forward."""

import copy
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from evoprune.surgery.lowering.lowered_conv import BlockConv, LoweredConv, TermConv

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FOLDS_NORM = (*_CONVS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_IDENTITIES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus,
)  # fmt: skip
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_MAP_BY_MAP = (*_ACTIVATIONS, *_POOLS, *_IDENTITIES)
_MAP_BY_MAP_FUNCTIONS = frozenset({
    F.relu, torch.relu, F.relu6, F.silu, F.gelu, F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool2d, F.leaky_relu,
    torch.sigmoid, torch.tanh, F.hardswish, F.elu, F.adaptive_avg_pool2d,
})  # fmt: skip
_RELUS = (nn.ReLU,)
_FRESH = frozenset({torch.conv1d, torch.conv2d, torch.conv3d, F.linear, torch.max_pool2d, torch.cat})
_SUMS = frozenset({operator.add, operator.iadd, torch.add})


@dataclass(frozen=True)
class Producer:
    """The convolution that makes all input maps of another one. conv: its name. norms: batch norms between them."""

    conv: str
    norms: tuple[str, ...]


class Graph:
    """A network traced by torch.fx. network: the graph module, which the methods change in place."""

    def __init__(self, model: nn.Module):
        """Traces a network. Raises what tracing raises if the forward depends on values or shapes."""
        self.network = fx.symbolic_trace(model)
        self._fold_norms()
        self._drop_identities()
        self._pool_before_relu()
        self.network.recompile()

    def copy(self) -> "Graph":
        """A deep copy."""
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network)
        return other

    def convolutions(self) -> list[str]:
        """Names of the convolutions that can be replaced, in the order of the forward pass."""
        names = (str(node.target) for node in self._calls() if is_plain_conv(self._module(node)))
        return list(dict.fromkeys(names))

    def producer(self, conv: str) -> Producer | None:
        """The producer of a convolution's input maps, if nothing else depends on their order; otherwise None."""
        used = Counter(str(node.target) for node in self._calls())
        (node, *others) = [node for node in self._calls() if node.target == conv]
        if others or not isinstance(node.args[0], fx.Node):
            return None
        norms: list[str] = []
        maker = node.args[0]
        while len(maker.users) == 1:
            module = self._module(maker)
            if maker.op == "call_module" and used[str(maker.target)] > 1:
                return None
            if is_plain_conv(module) and module.groups == 1:
                return Producer(str(maker.target), tuple(norms))
            if isinstance(module, _BatchNorm):
                norms.append(str(maker.target))
            elif not (type(module) in _MAP_BY_MAP or maker.target in _MAP_BY_MAP_FUNCTIONS):
                return None
            if not maker.args or not isinstance(maker.args[0], fx.Node):
                return None
            maker = maker.args[0]
        return None

    def reorder(self, producer: Producer, order: Sequence[int]) -> None:
        """Makes a producer make these maps only, in this order."""
        index = torch.tensor(order)
        conv: Any = self.network.get_submodule(producer.conv)
        _select_rows(conv, index, ("weight", "bias"))
        conv.out_channels = len(order)
        for name in producer.norms:
            norm: Any = self.network.get_submodule(name)
            _select_rows(norm, index, ("weight", "bias", "running_mean", "running_var"))
            norm.num_features = len(order)

    def replace(self, name: str, module: nn.Module) -> None:
        """Replaces a convolution by another module."""
        self.network.set_submodule(name, module)

    def flat(self, inputs: Sequence[Any]) -> fx.GraphModule:
        """The network as one forward, without inner modules if possible, with in-place operations if they are safe.

        Args:
            inputs: An example, for the shapes.
        """
        self.network.graph.lint()
        flat = fx.GraphModule(self.network, _FlatTracer().trace(self.network))
        _plain_pools(flat)
        _at_the_root(flat)
        with torch.no_grad():
            _Shapes(flat).run(*inputs)
        _in_place(flat)
        for node in flat.graph.nodes:
            node.meta.clear()
        flat.graph.eliminate_dead_code()
        flat.delete_all_unused_submodules()
        flat.recompile()
        return flat.eval()

    def _calls(self) -> Iterator[fx.Node]:
        return (node for node in self.network.graph.nodes if node.op == "call_module")

    def _module(self, node: fx.Node) -> Any:
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _fold_norms(self) -> None:
        """Folds each batch norm that directly follows a layer into the layer."""
        used = Counter(str(node.target) for node in self._calls())
        for node in list(self._calls()):
            norm, maker = self._module(node), node.args[0] if node.args else None
            if not isinstance(norm, _BatchNorm) or not isinstance(maker, fx.Node) or len(maker.users) != 1:
                continue
            layer = self._module(maker)
            if used[str(node.target)] == used[str(maker.target)] == 1 and can_fold(layer, norm):
                self.network.set_submodule(str(maker.target), folded(layer, norm))
                self._bypass(node)

    def _drop_identities(self) -> None:
        """Removes modules that do nothing in eval mode."""
        for node in list(self._calls()):
            if type(self._module(node)) in _IDENTITIES and len(node.args) == 1 and not has_hooks(self._module(node)):
                self._bypass(node)

    def _pool_before_relu(self) -> None:
        """Moves ReLU behind max pooling: the same result from fewer pixels."""
        for pool in list(self._calls()):
            relu = pool.args[0] if len(pool.args) == 1 else None
            if type(self._module(pool)) is not nn.MaxPool2d or not isinstance(relu, fx.Node) or len(relu.users) > 1:
                continue
            module = self._module(pool)
            if type(self._module(relu)) not in _RELUS or module.return_indices or has_hooks(module):
                continue
            before = relu.args[0]
            assert isinstance(before, fx.Node)
            pool.args = (before,)
            pool.replace_all_uses_with(relu)
            relu.args = (pool,)
            pool.append(relu)  # behind the pooling

    def _bypass(self, node: fx.Node) -> None:
        before: Any = node.args[0]
        node.replace_all_uses_with(before)
        self.network.graph.erase_node(node)


def is_plain_conv(module: Any) -> bool:
    """Whether a module is a convolution with its own weight and bias and no hooks."""
    return type(module) in _CONVS and "weight" in module._parameters and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run with a module's forward or backward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def can_fold(layer: Any, norm: nn.Module) -> bool:
    """Whether a batch norm in eval mode can be folded into the layer before it."""
    if type(layer) not in _FOLDS_NORM or has_hooks(layer) or has_hooks(norm) or norm.running_mean is None:
        return False
    if "weight" not in layer._parameters or (isinstance(layer, nn.Linear) and type(norm) is not nn.BatchNorm1d):
        return False
    return not (isinstance(layer, _ConvTransposeNd) and layer.groups > 1)


def folded(layer: Any, norm: Any) -> nn.Module:
    """A layer that computes the same as a layer and the batch norm behind it."""
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _ConvTransposeNd))


class _FlatTracer(fx.Tracer):
    """Traces into layers and their lowered forms; other modules stay calls of modules."""

    _INTO = (LoweredConv, BlockConv, TermConv, *_CONVS, nn.Linear, nn.ReLU, nn.Flatten, nn.Sequential, nn.ModuleList)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, fx.GraphModule) and (type(m) not in self._INTO or has_hooks(m))


def flattened(module: nn.Module) -> fx.GraphModule:
    """A layer, or a lowered form of one, as one forward without calls of inner modules, which take time."""
    flat = fx.GraphModule(module, _FlatTracer().trace(module))
    _at_the_root(flat)
    flat.delete_all_unused_submodules()
    flat.recompile()
    return flat.eval()


def _select_rows(module: nn.Module, index: Tensor, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(module, name)
        if value is None:
            continue
        rows = value.detach().index_select(0, index.to(value.device))
        layout = torch.channels_last if _is_channels_last(value) else torch.contiguous_format
        rows = rows.contiguous(memory_format=layout)
        if isinstance(value, nn.Parameter):
            rows = nn.Parameter(rows, requires_grad=value.requires_grad)
        setattr(module, name, rows)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _plain_pools(flat: fx.GraphModule) -> None:
    """Replaces pooling modules by calls of torch functions, which take less time."""
    for node in list(flat.graph.nodes):
        module = flat.get_submodule(node.target) if node.op == "call_module" else None
        if module is None or has_hooks(module):
            continue
        with flat.graph.inserting_before(node):
            if type(module) is nn.MaxPool2d and not module.return_indices:
                options = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
                new = flat.graph.call_function(torch.max_pool2d, (*node.args, *options))
            elif type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
                new = flat.graph.call_function(torch.mean, (node.args[0], (-2, -1), True))
            else:
                continue
        node.replace_all_uses_with(new)
        flat.graph.erase_node(node)


def _at_the_root(flat: fx.GraphModule) -> None:
    """Moves parameters and buffers that the forward reads to the root, because looking up nested names takes time."""
    for node in flat.graph.nodes:
        if node.op != "get_attr" or "." not in str(node.target):
            continue
        owner, _, name = str(node.target).rpartition(".")
        short = str(node.target).replace(".", "_")
        module = flat.get_submodule(owner)
        if hasattr(flat, short) and getattr(flat, short) is not getattr(module, name):
            continue
        if name in module._parameters:
            flat.register_parameter(short, module._parameters[name])
        elif name in module._buffers:
            flat.register_buffer(short, module._buffers[name])
        else:
            continue
        node.target = short


def _in_place(flat: fx.GraphModule) -> None:
    """Makes ReLU and sums work in place if nothing else reads their input, which saves allocations."""
    for node in flat.graph.nodes:
        if node.target in _SUMS and len(node.args) == 2 and not node.kwargs:
            for one, other in (node.args, node.args[::-1]):
                if _fresh(one) and _same_shape_and_type(one, other, node):
                    node.target, node.args = torch.Tensor.add_, (one, other)
                    break
        elif node.target in (F.relu, torch.relu) and isinstance(node.args[0], fx.Node):
            source = node.args[0]
            node.target = torch.relu_ if _fresh(source) and _same_shape_and_type(source, source, node) else torch.relu
            node.args, node.kwargs = (source,), {}


def _fresh(node: Any) -> bool:
    """Whether a node is a newly made tensor that is read once."""
    made = isinstance(node, fx.Node) and (node.target in _FRESH or node.target is torch.Tensor.add_)
    return made and len(node.users) == 1


def _same_shape_and_type(one: Any, other: Any, result: fx.Node) -> bool:
    found = {getattr(node, "meta", {}).get("shape_and_type") for node in (one, other, result)}
    return None not in found and len(found) == 1


class _Shapes(fx.Interpreter):
    """Runs a graph, and notes the shape and type of each node's tensor. (ShapeProp of torch.fx prints errors.)"""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape_and_type"] = (result.shape, result.dtype)
        return result
