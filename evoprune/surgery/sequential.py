"""Sequential compensation: each layer is solved on its inputs in the pruned network, in the order of the forward pass.

Gram compensation (`compensation`) takes the inputs of all layers from the unpruned network, and so ignores the errors
of earlier layers. Here the pruned network runs: the weights of each layer are the least-squares fit of the unpruned
layer's outputs by the inputs in the pruned network. It takes seconds instead of milliseconds, and is better if much is
removed.

References:
    He, Zhang and Sun 2017, eq. 5 (reconstruction layer by layer).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import cut_masks
from evoprune.surgery.compensation import RIDGE, rows_with_equal_columns, solve_positive_definite
from evoprune.surgery.layer_statistics import BATCH_SIZE, unfolded
from evoprune.surgery.recalibration import recalibrate


@torch.no_grad()
def compensate_sequentially(
    small: nn.Module, model: nn.Module, space: SearchSpace, phenotype: Phenotype, images: Tensor
) -> None:
    """Solves each layer of the compacted network again, in place; batch norm is recalibrated after each layer.

    Layers that are not Conv or Linear modules, or run more than once, keep their weights.

    Args:
        small: The compacted network, in eval mode.
        model: The unpruned network, in eval mode; not changed.
        space: Its search space.
        phenotype: Of `small`.
        images: float (n, c, h, w), on the networks' device: the calibration set.
    """
    masks = cut_masks(space, phenotype)
    for layer in _in_order(_solvable(small, space), small, images[:1]):
        rows = phenotype.kept.get((layer.weight, layer.out_dim))
        sums = _collect(small, model, layer.name, rows, images)
        module = small.get_submodule(layer.name)
        _solve_layer(module, masks.get(layer.weight), sums, centred=_takes_mean(module, small))
        recalibrate(small, images)


@dataclass
class _Moments:
    """Sums over examples of inputs, of outputs, and of their products, by group of the convolution."""

    count: int = 0
    inputs: Tensor | float = 0.0  # (groups, columns)
    outputs: Tensor | float = 0.0  # (groups, rows)
    squares: Tensor | float = 0.0  # (groups, columns, columns)
    products: Tensor | float = 0.0  # (groups, columns, rows)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds examples. inputs: (groups, columns, examples). outputs: (groups, rows, examples)."""
        self.count += inputs.shape[2]
        self.inputs = self.inputs + inputs.sum(2)
        self.outputs = self.outputs + outputs.sum(2)
        self.squares = self.squares + inputs @ inputs.mT
        self.products = self.products + inputs @ outputs.mT


def _solvable(small: nn.Module, space: SearchSpace) -> list[Layer]:
    modules = dict(small.named_modules())
    return [
        layer
        for layer in space.layers
        if layer.weight == f"{layer.name}.weight"
        and not layer.computed
        and not layer.channels_per_group
        and isinstance(modules.get(layer.name), nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]


def _in_order(layers: Sequence[Layer], small: nn.Module, image: Tensor) -> list[Layer]:
    """The layers that run exactly once, in the order of the forward pass."""
    calls: list[str] = []
    handles = [
        small.get_submodule(layer.name).register_forward_pre_hook(
            lambda module, args, name=layer.name: calls.append(name)
        )
        for layer in layers
    ]
    try:
        small(image)
    finally:
        for handle in handles:
            handle.remove()
    by_name = {layer.name: layer for layer in layers}
    return [by_name[name] for name in calls if calls.count(name) == 1]


class _Reached(Exception):
    """Ends a forward pass once the wanted layer has been reached."""


def _collect(small: nn.Module, model: nn.Module, name: str, rows: np.ndarray | None, images: Tensor) -> _Moments:
    """Sums over the inputs of a layer in the small network and its outputs in the unpruned one. rows: outputs kept."""
    module: Any = small.get_submodule(name)
    groups = int(getattr(module, "groups", 1))
    sums = _Moments()
    for batch in images.split(BATCH_SIZE):
        inputs = unfolded(module, _seen(small, module, batch, outputs=False))
        outputs = _seen(model, model.get_submodule(name), batch, outputs=True)
        flat = outputs.reshape(-1, outputs.shape[-1]).T if isinstance(module, nn.Linear) else _examples_last(outputs)
        if rows is not None:
            flat = flat[torch.from_numpy(rows).to(flat.device)]
        sums.add(inputs.reshape(groups, -1, inputs.shape[1]), flat.reshape(groups, -1, flat.shape[1]))
    return sums


def _examples_last(outputs: Tensor) -> Tensor:
    """(batch, maps, *pixels) -> (maps, batch * pixels), in the order of `unfolded`."""
    return outputs.transpose(0, 1).flatten(1)


def _seen(network: nn.Module, module: nn.Module, images: Tensor, outputs: bool) -> Tensor:
    """The input or the output of a module in a forward pass of the network."""
    found: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].detach().clone())
        raise _Reached

    def after(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output.detach().clone())
        raise _Reached

    handle = module.register_forward_hook(after) if outputs else module.register_forward_pre_hook(before)
    with suppress(_Reached):
        network(images)
    handle.remove()
    return found[0]


def _takes_mean(module: nn.Module, small: nn.Module) -> bool:
    """Whether a bias of the layer or a batch norm takes the mean; otherwise the weights have to carry it."""
    norms = any(isinstance(other, nn.modules.batchnorm._BatchNorm) for other in small.modules())
    return norms or getattr(module, "bias", None) is not None


def _solve_layer(module: nn.Module, mask: Tensor | None, sums: _Moments, centred: bool) -> None:
    """Sets a layer's weights on the columns that stay to the least-squares solution, and its bias to take the mean."""
    weight, bias = module.get_parameter("weight"), getattr(module, "bias", None)
    assert isinstance(sums.inputs, Tensor)
    assert isinstance(sums.outputs, Tensor)
    groups, rows = sums.outputs.shape
    flat = weight.detach().flatten(1).clone()
    stays = np.ones((1, flat.shape[1]), dtype=bool) if mask is None else mask.flatten(1).numpy()
    for group in range(groups):
        mean_in, mean_out = sums.inputs[group] / sums.count, sums.outputs[group] / sums.count
        square, product = sums.squares[group] / sums.count, sums.products[group] / sums.count  # type: ignore[index]
        if centred:
            square, product = square - torch.outer(mean_in, mean_in), product - torch.outer(mean_in, mean_out)
        for same, columns in rows_with_equal_columns(stays, np.arange(group * rows, (group + 1) * rows)):
            kept = square[columns][:, columns]
            old = flat[same][:, columns]
            left = product[columns][:, same - group * rows] - kept @ old.T  # the residual of the present weights
            kept.diagonal().add_(RIDGE * kept.diagonal().mean().clamp_min(torch.finfo(kept.dtype).tiny))
            change = solve_positive_definite(kept, left)
            if change is not None:
                flat[same[:, None], columns] = old + change.T
        if bias is not None:
            here = slice(group * rows, (group + 1) * rows)
            bias.data[here] = mean_out - flat[here] @ mean_in
    weight.data.copy_(flat.reshape(weight.shape))
