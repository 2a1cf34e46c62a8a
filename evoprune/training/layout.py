"""The memory layout in which a network computes and is trained."""

import torch
from torch import Tensor, nn

from evoprune.networks.modes import eval_mode

_WHOLE_BLOCK = 16
"""Input maps a group from which a convolution fills the widest block of oneDNN's kernels for the CPU."""


def lay_out(model: nn.Module, images: Tensor) -> torch.memory_format:
    """Puts the network's weights into channels-last, which is faster, where it runs so; else leaves them contiguous.

    A network that views its maps as vectors (`x.view(x.size(0), -1)`) runs in the contiguous layout alone.
    images: float (b, c, h, w), on the network's device. Returns the layout to give images in.
    """
    if images.ndim != 4:
        return torch.contiguous_format
    model.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), eval_mode(model):
            model(images[:2].contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


def lay_out_to_train(model: nn.Module, images: Tensor) -> torch.memory_format:
    """As `lay_out`, but contiguous on a CPU where pruning left a strided pointwise convolution few input maps.

    In channels-last, the gradient of such weights is written past oneDNN's memory: it is wrong, or the process ends
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
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
    """The tensor in a layout; others than (n, c, h, w) as they are.

    Of one channel, both layouts are the same numbers in the same order, and strides alone tell the library which one is
    meant: a convolution of such images gives its maps in the layout that they name.
    """
    if tensor.ndim != 4:
        return tensor
    if tensor.shape[1] > 1 or layout is torch.contiguous_format:
        return tensor.contiguous(memory_format=layout)
    return torch.empty_like(tensor, memory_format=layout).copy_(tensor)
