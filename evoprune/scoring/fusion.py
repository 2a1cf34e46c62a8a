"""Fused networks: every convolution computes its batch norm and activation in the same operation.

The graph is traced once. Its modules stay the network's own, so that changes of their weights and widths take effect.
Calibration takes batch-norm statistics while the images pass, as `recalibrate` does, and folds them into convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from evoprune.surgery.recalibration import calibration_batches, recalibrated


@dataclass(frozen=True)
class Activation:
    """An activation function.

    Attributes:
        name: Its name in the library's fused convolution.
        scalars: Its parameters there.
        apply_: The same function, in place on a tensor.
    """

    name: str
    scalars: tuple[float, ...]
    apply_: Callable[[Tensor], Tensor]


NO_ACTIVATION = Activation("none", (), lambda values: values)
RELU = Activation("relu", (), torch.relu_)
RELU6 = Activation("hardtanh", (0.0, 6.0), lambda values: F.hardtanh_(values, 0.0, 6.0))


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


class FusedNetwork:
    """A network's graph with fused blocks. It computes with the weights that its modules had when it was calibrated."""

    def __init__(self, network: nn.Module, graph: fx.GraphModule, blocks: "tuple[FusedBlock, ...]"):
        self._network = network
        self._graph = graph
        self._blocks = blocks
        self._attributes = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]

    def __call__(self, images: Tensor) -> Any:
        """images: float (batch, c, h, w). Returns the network's outputs."""
        return self._graph.forward(images)  # a call would print what it raises

    def calibrate(self, images: Tensor, batch_size: int) -> None:
        """Computes all batch-norm statistics and folds them.

        Args:
            images: float (n, c, h, w).
            batch_size: Number of images in a pass.
        """
        for name in self._attributes:
            _put(self._graph, name, _get(self._network, name))
        for block in self._blocks:
            block.begin()
        with recalibrated(self._graph) as norms:
            if norms or any(block.normed for block in self._blocks):
                for batch in calibration_batches(images, batch_size):
                    self._graph.forward(batch)
        for block in self._blocks:
            block.fold()


def fused(network: nn.Module) -> FusedNetwork | None:
    """Fuses convolutions with their batch norms and activations.

    Fused are a batch norm that is the only reader of a convolution or linear layer, and an activation that is the only
    reader of the result.

    Args:
        network: In eval mode. It is left unchanged, and shares its modules with the result.

    Returns:
        The fused network; None if the network cannot be traced.
    """
    try:
        graph = fx.GraphModule(network, fx.Tracer().trace(network))
    except Exception:  # control flow that depends on values, or an error in a user's module
        return None
    modules = dict(network.named_modules())
    used = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    blocks = []
    for node in list(graph.graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d | nn.Linear) or used.count(node.target) > 1 or _hooked(layer):
            continue
        last, activation = node, NO_ACTIVATION
        norm: BatchNorm | None = None
        follower = _only_reader(last)
        if follower is not None and follower.op == "call_module" and used.count(follower.target) == 1:
            module = modules[str(follower.target)]
            if (found_norm := _norm_of(layer, module)) is not None:
                last, norm = follower, found_norm
                follower = _only_reader(last)
        if follower is not None and (found := _activation(follower, modules)):
            last, activation = follower, found
        if last is node and not (isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"):
            continue
        block = FusedBlock(layer, norm, activation)
        blocks.append(block)
        _replace(graph, node, last, block, f"fused_{len(blocks)}")
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and _halves(modules.get(str(node.target))):
            with graph.graph.inserting_after(node):
                node.replace_all_uses_with(graph.graph.call_function(halved, node.args))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    graph.delete_all_unused_submodules()
    return FusedNetwork(network, graph.eval(), tuple(blocks))


def halved(maps: Tensor) -> Tensor:
    """2x2 max pooling, (b, c, h, w) -> (b, c, h // 2, w // 2). Faster than the library's, which stores indices, too."""
    height, width = maps.shape[2] // 2 * 2, maps.shape[3] // 2 * 2
    rows = torch.maximum(maps[:, :, 0:height:2, :width], maps[:, :, 1:height:2, :width])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def _halves(module: nn.Module | None) -> bool:
    """Whether a module is 2x2 max pooling without any option."""
    if not isinstance(module, nn.MaxPool2d) or _hooked(module):
        return False
    pair = {2, (2, 2)}
    plain = module.padding in (0, (0, 0)) and module.dilation in (1, (1, 1))
    return plain and {module.kernel_size, module.stride} <= pair and not (module.ceil_mode or module.return_indices)


class FusedBlock(nn.Module):
    """A convolution or linear layer, its batch norm and its activation as one module."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: BatchNorm | None, activation: Activation):
        super().__init__()
        self._layer, self._norm = (layer,), (norm,)  # in tuples, so that they are not registered here, too
        self._activation = activation
        self._folded: tuple[Callable[[Tensor], Tensor], ...] = ()
        self._mean: list[Tensor] = []
        self._var: list[Tensor] = []

    def forward(self, values: Tensor) -> Tensor:
        """values: the layer's input. Returns the block's output."""
        return self._folded[0](values) if self._folded else self._measured(values)

    def begin(self) -> None:
        """Starts a calibration: the next passes collect statistics."""
        self._folded = ()
        self._mean, self._var = [], []

    @property
    def normed(self) -> bool:
        """Whether the block has a batch norm."""
        return self._norm[0] is not None

    def fold(self) -> None:
        """Ends a calibration: the next passes use the mean of the statistics since `begin`."""
        # Not torch.nn.utils.fusion.fuse_conv_bn_weights: it multiplies in another order, so last bits differ.
        (layer,), (norm,) = self._layer, self._norm
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if norm is not None:
            mean, var = torch.stack(self._mean).mean(0), torch.stack(self._var).mean(0)
            scale = torch.rsqrt(var + norm.eps)
            if norm.weight is not None:
                scale = scale * norm.weight.detach()
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = -mean * scale if bias is None else (bias - mean) * scale
            if norm.bias is not None:
                bias = bias + norm.bias.detach()
        self._folded = (_runner(layer, weight, bias, self._activation),)

    def _measured(self, values: Tensor) -> Tensor:
        (layer,), (norm,) = self._layer, self._norm
        values = layer(values)
        if norm is not None:
            examples = values.numel() // values.shape[1]
            values, mean, inverse = torch.native_batch_norm(
                values, norm.weight, norm.bias, None, None, True, 0.0, norm.eps
            )
            self._mean.append(mean)
            # the library returns the population's variance; running statistics are the sample's
            self._var.append((inverse.double().pow(-2) - norm.eps).to(mean.dtype) * (examples / max(examples - 1, 1)))
        return self._activation.apply_(values)


def _runner(
    layer: nn.Module, weight: Tensor, bias: Tensor | None, activation: Activation
) -> Callable[[Tensor], Tensor]:
    """The layer with other weights, and its activation, in one call of the library if there is one."""
    if isinstance(layer, nn.Linear):
        return lambda values: activation.apply_(F.linear(values, weight, bias))
    assert isinstance(layer, nn.Conv2d)
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and not isinstance(padding, str):
        weight = weight.contiguous(memory_format=torch.channels_last)
        pointwise = torch.ops.mkldnn._convolution_pointwise
        scalars = list(activation.scalars)
        return lambda values: pointwise(
            values, weight, bias, padding, stride, dilation, groups, activation.name, scalars, ""
        )
    return lambda values: activation.apply_(F.conv2d(values, weight, bias, stride, padding, dilation, groups))


def _norm_of(layer: nn.Module, module: nn.Module) -> BatchNorm | None:
    """The module, if it is a batch norm over the layer's channels with running statistics."""
    if not isinstance(module, nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d):
        return None
    return module if module.track_running_stats and not _hooked(module) else None


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _only_reader(node: fx.Node) -> fx.Node | None:
    """The only node that reads this node's value, if it reads no other one."""
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and readers[0].all_input_nodes == [node] else None


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> Activation | None:
    if node.op == "call_module":
        module = modules[str(node.target)]
        if _hooked(module):
            return None
        return RELU if type(module) is nn.ReLU else RELU6 if type(module) is nn.ReLU6 else None
    if node.op == "call_function":
        return RELU if node.target in (F.relu, torch.relu, torch.relu_, F.relu_) else None
    return RELU if node.op == "call_method" and node.target in ("relu", "relu_") else None


def _replace(graph: fx.GraphModule, first: fx.Node, last: fx.Node, block: nn.Module, name: str) -> None:
    """Replaces a chain of nodes by one call of a block."""
    graph.add_submodule(name, block)
    with graph.graph.inserting_after(last):
        new = graph.graph.call_module(name, (first.args[0],))
    last.replace_all_uses_with(new)


def _get(module: nn.Module, name: str) -> Any:
    owner, _, attribute = name.rpartition(".")
    return getattr(module.get_submodule(owner), attribute)


def _put(module: nn.Module, name: str, value: Any) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, value)
