"""The memory layout (contiguous or channels-last) in which a network computes and is trained."""

import torch
from torch import Tensor, nn

from evoprune.networks.modes import eval_mode

_WHOLE_BLOCK = 16
"""Input maps per group with which a convolution fills the widest block of oneDNN's kernels for CPUs."""


def lay_out(model: nn.Module, images: Tensor) -> torch.memory_format:
    """Brings the network's weights into the channels-last layout, which is faster, if the network runs in it.

    A network that views its maps as vectors (`x.view(x.size(0), -1)`), or has tensors of five dimensions, runs in the
    contiguous layout only.

    Args:
        model: changed in place.
        images: float (b, c, h, w), on the network's device.

    Returns:
        The layout that images must have.
    """
    if images.ndim != 4:
        return torch.contiguous_format
    try:
        model.to(memory_format=torch.channels_last)  # fails for tensors of five dimensions
        with torch.no_grad(), eval_mode(model):
            model(images[:2].contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def lay_out_to_train(model: nn.Module, images: Tensor) -> torch.memory_format:
    """As `lay_out`, but contiguous on a CPU if the network has a strided pointwise convolution of few input maps.

    In channels-last, oneDNN writes the gradient of such weights past its memory, so that it is wrong or the process
    ends (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    if images.device.type == "cpu" and any(_is_narrow_shortcut(module) for module in model.modules()):
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return lay_out(model, images)


def _is_narrow_shortcut(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < _WHOLE_BLOCK
    )


def laid_out(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """The tensor in a layout; a tensor that is not (n, c, h, w) is returned as it is.

    With one channel, both layouts have the same numbers in the same order, and only the strides tell them apart; a
    convolution returns its maps in the layout that the strides of its input name.
    """
    if tensor.ndim != 4:
        return tensor
    if tensor.shape[1] > 1 or layout is torch.contiguous_format:
        return tensor.contiguous(memory_format=layout)
    return torch.empty_like(tensor, memory_format=layout).copy_(tensor)
