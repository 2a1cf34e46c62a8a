"""Forward passes of a copy of the network on the example input: in eval mode, and through its training branches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from evoprune.discovery.proof import TOLERANCE_SINGLE, relative_difference
from evoprune.discovery.tracing import Tracer, tensors_of
from evoprune.errors import SearchSpaceError, first_line
from evoprune.space.tensors import copied, named_tensors


def check_devices(model: nn.Module, example: tuple[Any, ...]) -> None:
    """Raises SearchSpaceError if the network has no weights, or the example lies on another device."""
    devices = {tensor.device for _, tensor in named_tensors(model)}
    if torch.device("meta") in devices:
        raise SearchSpaceError("the network is on the meta device, without weights; load them first")
    for tensor in tensors_of(example):
        if devices and tensor.device not in devices:
            raise SearchSpaceError(
                f"the example input is on {tensor.device} and the network on {devices.pop()}; move one to the other"
            )


def proof_copy(model: nn.Module, example: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...], Any]:
    """A copy of the network on the CPU in eval mode: in float64 if it runs so, else in float32, else as it is.

    Returns:
        The copy, its inputs, and its outputs for them.

    Raises:
        SearchSpaceError: If the forward fails in each of these types.
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
        _perturb_uniform_tensors(network)
        try:
            return network, inputs, outputs_of(network, inputs)
        except Exception as error:  # any exception of the user's forward, reported below
            problem = error
    assert problem is not None
    shapes = ", ".join(str(tuple(value.shape)) for value in tensors_of(example))
    raise SearchSpaceError(
        f"the network's forward fails on an example input of shape {shapes}: "
        f"{type(problem).__name__}: {first_line(problem)}"
    ) from problem


def _perturb_uniform_tensors(network: nn.Module) -> None:
    """Adds noise to tensors with all elements equal (heads of zeros, scales of one): they would prove nothing."""
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


def outputs_of(network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The network's outputs as it is."""
    with torch.no_grad():
        return network(*inputs)


def branch_outputs_of(network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The network's outputs through its training branches."""
    with torch.no_grad(), training_branches(network):
        return network(*inputs)


def batch_size(inputs: tuple[Any, ...]) -> int:
    """Number of images in the example input: the first size of its first tensor."""
    return next((tensor.shape[0] for tensor in tensors_of(inputs) if tensor.ndim), 1)


def check_outputs(first: Any, second: Any) -> None:
    """Raises SearchSpaceError unless the outputs of two equal passes are tensors, finite, and the same."""
    if not tensors_of(first):
        raise SearchSpaceError(
            f"the network returns no tensor but {type(first).__name__}; let its forward return a tensor, "
            "or a tuple, list, dict or data class of tensors"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors_of(first)):
        raise SearchSpaceError("the network's outputs are not finite on the example input; give another one")
    if relative_difference(first, second) > TOLERANCE_SINGLE:
        raise SearchSpaceError(
            "the network gives different outputs for the same input in eval mode; make it deterministic"
        )


@contextmanager
def training_branches(model: nn.Module) -> Iterator[None]:
    """Modules with children are in training mode, so that auxiliary heads run; layers in eval mode, without noise."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = any(True for _ in module.children())
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def follow_network(tracer: Tracer, network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Follows one forward pass with a tracer. Returns the outputs, which are frozen."""
    with _decomposed_attention(), tracer.following(network):
        outputs = network(*inputs)
        tracer.freeze_outputs(outputs)
    return outputs


def follow_branches(tracer: Tracer, branches: Tracer, network: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Follows the training branches of a network (auxiliary heads).

    Args:
        tracer: Has followed the network in eval mode.
        branches: Follows the network with its training branches.
        network: In eval mode.
        inputs: Its inputs.

    Returns:
        Whether there are branches that run, and give the same outputs twice.
    """
    if not any(True for _ in network.children()):
        return False
    try:
        with training_branches(network):
            outputs = follow_network(branches, network, inputs)
        if branches.operations == tracer.operations:
            return False
        again = branch_outputs_of(network, inputs)
    except Exception:  # a network whose training branches do not run is proved without them
        return False
    return relative_difference(outputs, again) <= TOLERANCE_SINGLE


@contextmanager
def _decomposed_attention() -> Iterator[None]:
    """Attention as single products instead of one opaque operation, which could be neither followed nor counted."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
