"""Forward passes of a copy of the network on the example input: in eval mode, and through its training branches."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map

from evoprune.discovery.proof import TOLERANCE_SINGLE, Forward, relative_difference
from evoprune.discovery.recurrent import freeze_hidden_units
from evoprune.discovery.tracing import Tracer, tensors_of
from evoprune.errors import SearchSpaceError, first_line
from evoprune.networks.seeding import global_seed
from evoprune.space.tensors import change_type, copied, in_type, named_tensors, replace_tensors


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


@dataclass(frozen=True, eq=False)
class ProofCopy:
    """A copy of a network on the CPU in eval mode, and the type that it is proved in.

    Attributes:
        stored: The copy in its own type, in which it takes less memory; it has the parameters of the network.
        dtype: The type of floating-point tensors in the proof; None: their own.
        inputs: In this type.
        outputs: Of the copy in this type.
    """

    stored: nn.Module
    dtype: torch.dtype | None
    inputs: tuple[Any, ...]
    outputs: Any

    def network(self) -> nn.Module:
        """The copy in the type of the proof."""
        return self.network_in(self.dtype)

    def network_in(self, dtype: torch.dtype | None) -> nn.Module:
        """The copy in a type; None: its own types."""
        network = copied(self.stored, share_parameters=True)
        change_type(network, dtype)
        return network


def proof_copy(model: nn.Module, example: tuple[Any, ...]) -> ProofCopy:
    """A copy of the network that is proved in float64 if it runs so, else in float32, else as it is.

    Raises:
        SearchSpaceError: If the forward fails in each of these types.
    """
    problem: Exception | None = None
    stored = copied(model, share_parameters=all(tensor.device.type == "cpu" for tensor in model.parameters()))
    stored = stored.cpu().eval()
    _perturb_uniform_tensors(stored)
    given = tree_map(lambda value: value.detach().cpu() if isinstance(value, Tensor) else value, example)
    for dtype in (torch.float64, torch.float32, None):
        inputs = tree_map(partial(in_type, dtype), given)
        candidate = ProofCopy(stored, dtype, inputs, None)
        try:
            return replace(candidate, outputs=outputs_of(candidate.network(), inputs))
        except Exception as error:  # any exception of the user's forward, reported below
            problem = error
    assert problem is not None
    raise forward_failure(problem, example) from problem


def forward_failure(problem: Exception, example: tuple[Any, ...]) -> SearchSpaceError:
    """The error of a network whose forward fails on an example, in one line."""
    shapes = ", ".join(str(tuple(value.shape)) for value in tensors_of(example))
    keywords = any(isinstance(value, dict) for value in example)
    return SearchSpaceError(
        f"the network's forward fails on an example input of shape {shapes}: "
        f"{type(problem).__name__}: {first_line(problem)}"
        + ("; a dict is one argument: for keyword arguments, give a tuple in the forward's order" if keywords else "")
    )


def _perturb_uniform_tensors(network: nn.Module) -> None:
    """Adds noise to tensors with all elements equal (heads of zeros, scales of one): they would prove nothing.

    Of single numbers, parameters of 0 alone are changed: gains of branches that are off before training.
    """
    generator = torch.Generator().manual_seed(0)
    perturbed = {}
    for name, tensor in named_tensors(network):
        if not tensor.is_floating_point() or not tensor.numel() or tensor.min() != tensor.max():
            continue
        if tensor.numel() == 1 and (tensor != 0 or not isinstance(tensor, nn.Parameter)):
            continue
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
        wide = tensor.ndim > 1 and tensor.numel() > 1
        change = (noise - 0.5) * (12 / tensor[0].numel()) ** 0.5 if wide else 0.2 * noise
        perturbed[name] = tensor.detach() + change
    replace_tensors(network, perturbed)


def outputs_of(network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The network's outputs as it is."""
    with torch.no_grad():
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
    """Modules with children are in training mode, so that auxiliary heads run; layers, norms and dropout are not."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = any(True for _ in module.children()) and not isinstance(module, _NormBase | _DropoutNd)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def follow_network(tracer: Tracer, network: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Follows one forward pass with a tracer. Returns the outputs, which are frozen."""
    freeze_hidden_units(tracer, network)
    for tensor in tensors_of(inputs):
        tracer.data[tensor] = True
    with _decomposed_attention(), tracer.following(network):
        outputs = network(*inputs)
        tracer.freeze_outputs(outputs)
    return outputs


@dataclass(frozen=True, eq=False)
class Branches:
    """Training branches of a network (auxiliary heads).

    Attributes:
        tracer: Has followed them, with labels that continue those of the pass in eval mode; has followed nothing if
            there are no branches.
        forward: Runs a network through its branches; None if there are none. If the outputs are random, it returns
            zeros of their shapes.
    """

    tracer: Tracer
    forward: Forward | None


def follow_branches(tracer: Tracer, network: nn.Module, inputs: tuple[Any, ...]) -> Branches:
    """Follows the training branches of a network, with fixed seeds.

    Args:
        tracer: Has followed the network in eval mode.
        network: In eval mode; not changed.
        inputs: Its inputs.

    Returns:
        The branches, without a forward if there are none, or if they do not run on the inputs.
    """
    own = copied(network, share_parameters=True)  # training can change buffers
    branches, nothing = (Tracer(own, tracer.labels.copy(), batch_size(inputs), tracer.follow) for _ in range(2))
    if not any(True for _ in network.children()):
        return Branches(nothing, None)
    try:
        with training_branches(own), _seeded(0):
            outputs = follow_network(branches, own, inputs)
        if branches.operations == tracer.operations:
            return Branches(nothing, None)
        others = [branch_outputs_of(copied(network, share_parameters=True), inputs, seed) for seed in (0, 1)]
    except Exception:  # a network whose training branches do not run is proved without them
        return Branches(nothing, None)
    repeatable = all(relative_difference(outputs, other) <= TOLERANCE_SINGLE for other in others)
    return Branches(branches, partial(branch_outputs_of if repeatable else _branch_shapes_of, inputs=inputs))


def branch_outputs_of(network: nn.Module, inputs: tuple[Any, ...], seed: int = 0) -> Any:
    """The network's outputs through its training branches."""
    with torch.no_grad(), training_branches(network), _seeded(seed):
        return network(*inputs)


def _branch_shapes_of(network: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Zeros in the shapes of the outputs through training branches: with dropout, values cannot be compared."""
    return [torch.zeros_like(output) for output in tensors_of(branch_outputs_of(network, inputs))]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of PyTorch, NumPy and Python, which have their states back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with global_seed(seed):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


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
