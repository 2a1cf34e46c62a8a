"""The proof of a plan: for probe genomes, the masked and the cut network compute the same outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from evoprune.discovery.tracing import tensors_of
from evoprune.errors import first_line
from evoprune.space.plan import Genome, Group
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import change_type, copied, cut, named_tensors, replace_tensors, zero

TOLERANCE = 1e-8
"""Largest difference relative to the output's scale that rounding explains if everything is float64."""

PLAIN_ROUNDING = 5e-15
"""Relative difference in float64 below which rounding is taken for granted; networks in use stay below 3e-15."""

MOST_ROUNDING = 100.0
"""Largest difference that rounding explains, as a multiple of the change when all weights change in their last bit."""

TOLERANCE_SINGLE = 1e-4
"""The same if a network computes anything in float32 or less."""

Forward = Callable[[nn.Module], Any]
"""Runs a network on the example input, in one of the ways it is proved for."""


@dataclass(frozen=True)
class Proof:
    """The proved space, and the largest relative difference among probes that passed."""

    space: SearchSpace
    max_difference: float


def prove(
    model: nn.Module,
    space: SearchSpace,
    forwards: Sequence[Forward],
    tolerance: float = TOLERANCE,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Proof:
    """Freezes the groups for which masked and cut outputs differ, or the cut network does not run.

    There are three probes: random widths of all groups; the least widths, at which a single map could be taken for a
    scalar (a group that fails only there keeps two maps); and other random widths, of all remaining groups together.

    Args:
        model: In eval mode; not changed.
        space: The plan to prove.
        forwards: All ways to run the network for which outputs must agree.
        tolerance: Largest relative difference that passes.
        seed: Of the probes.
        dtype: The type of floating-point tensors in the probes; None: the model's.
    """
    rng = np.random.default_rng(seed)
    probes = _Probes(model, tuple(forwards), tolerance, rng, dtype)
    space = _without(space, probes.failing(space, random_width))
    if failed := probes.failing(space, least_width):
        space = space.with_minimum(frozenset(failed), 2)
        space = _without(space, probes.failing(space, least_width))
    while failed := probes.failing(space, random_width):
        space = _without(space, failed)
    return Proof(space, probes.worst)


def _without(space: SearchSpace, failed: Mapping[str, str]) -> SearchSpace:
    for name, reason in failed.items():
        space = space.without(frozenset({name}), reason)
    return space


Width = Callable[[Group, np.random.Generator], int]
"""Number of maps that a probe keeps of a group."""


def least_width(group: Group, rng: np.random.Generator) -> int:
    """The smallest number of maps that the group may keep."""
    return group.minimum


def random_width(group: Group, rng: np.random.Generator) -> int:
    """Between a quarter and three quarters of the maps: with few or many maps, a wrong order shows less often."""
    return int(np.clip(rng.integers(group.size // 4, 3 * group.size // 4, endpoint=True), 1, group.size - 1))


def probe(space: SearchSpace, groups: Sequence[Group], width: Width, rng: np.random.Generator) -> Genome:
    """A random genome that keeps `width` maps of these groups, and all maps of the others."""
    genome = space.full()
    for group in groups:
        goes = rng.permutation(group.size)[width(group, rng) :]
        genome[group.start + goes] = 0
    return space.repair(genome, rng.random(space.genes))


@dataclass(frozen=True)
class _Failure:
    """The failure of a probe. near: groups in the module that raised an exception, which are probed first."""

    reason: str
    near: frozenset[str] = frozenset()


Change = Callable[[nn.Module, SearchSpace, Genome], None]
"""Masks or cuts a network, in place."""


@dataclass
class _Probes:
    """Compares masked and cut copies of one network. worst: the largest difference among probes that passed."""

    model: nn.Module
    forwards: tuple[Forward, ...]
    tolerance: float
    rng: np.random.Generator
    dtype: torch.dtype | None
    worst: float = 0.0

    def failing(self, space: SearchSpace, width: Width, groups: Sequence[Group] | None = None) -> dict[str, str]:
        """The groups (all, if None) that fail, with their reasons."""
        groups = space.groups if groups is None else groups
        failure = self.failure(space, probe(space, groups, width, self.rng)) if groups else None
        if failure is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: failure.reason}
        near = [group for group in groups if group.name in failure.near]
        if 0 < len(near) < len(groups) and (failed := self.failing(space, width, near)):
            rest = [group for group in groups if group.name not in failed]
            return failed | self.failing(space, width, rest)
        # If no group fails alone, the second half stays whole.
        return self._failing_halves(space, width, groups) or {
            group.name: failure.reason for group in groups[len(groups) // 2 :]
        }

    def _failing_halves(self, space: SearchSpace, width: Width, groups: Sequence[Group]) -> dict[str, str]:
        """The groups that fail, by bisection of groups that fail together; none if each half passes alone."""
        middle = len(groups) // 2
        if failed := self.failing(space, width, groups[:middle]):
            return failed | self.failing(space, width, groups[middle:])
        # The first half passes, so that the second one need not be probed as a whole.
        if len(groups) - middle == 1:
            return self.failing(space, width, groups[middle:])
        return self._failing_halves(space, width, groups[middle:])

    def failure(self, space: SearchSpace, genome: Genome) -> "_Failure | None":
        """The failure of a probe, if masked and cut outputs differ; otherwise notes how little they do."""
        outputs = self._outputs(cut, space, genome)  # first, because a plan that does not run ends here
        expected = outputs if isinstance(outputs, _Failure) else self._outputs(zero, space, genome)
        if isinstance(expected, _Failure):
            return expected
        difference = relative_difference(expected, outputs)
        if not difference <= self.tolerance:
            return _Failure(f"masked and cut outputs differ by {difference:.1e} of their scale")
        if self.tolerance == TOLERANCE and difference > PLAIN_ROUNDING:
            # A network whose outputs hardly depend on its maps hides a wrong order below the tolerance.
            perturbed = self._outputs(zero, space, genome, perturb=True)
            noise = 0.0 if isinstance(perturbed, _Failure) else relative_difference(expected, perturbed)
            if difference > MOST_ROUNDING * noise:
                return _Failure(
                    f"masked and cut outputs differ by {difference:.1e} of their scale, more than by rounding"
                )
        self.worst = max(self.worst, difference)
        return None

    def _outputs(
        self, change: Change, space: SearchSpace, genome: Genome, perturb: bool = False
    ) -> "list[Any] | _Failure":
        """The outputs of a changed copy. perturb: whether all its weights change in their last bit as well."""
        network = copied(self.model, share_parameters=True)
        try:
            change(network, space, genome)
            change_type(network, self.dtype)
            if perturb:
                _perturb_last_bits(network)
            return [forward(network) for forward in self.forwards]
        except Exception as error:  # any exception of the user's forward
            reason = f"the network does not run without some of its maps: {first_line(error)}"
            return _Failure(reason, _groups_in(space, _module_that_raised(error, network)))


def _perturb_last_bits(network: nn.Module) -> None:
    """Changes every floating-point weight by a rounding error, in place."""
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name, tensor in named_tensors(network):
        if tensor.is_floating_point():
            signs = torch.randint(2, tensor.shape, generator=generator).to(tensor.dtype) * 2 - 1
            changed[name] = tensor.detach() * (1 + torch.finfo(tensor.dtype).eps * signs)
    replace_tensors(network, changed)


def _module_that_raised(error: Exception, network: nn.Module) -> str | None:
    """The name of the innermost module whose forward raised an exception; None if there is none."""
    names = {id(module): name for name, module in network.named_modules()}
    found, frame = None, error.__traceback__
    while frame is not None:
        found = names.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return found


def _groups_in(space: SearchSpace, module: str | None) -> frozenset[str]:
    """The groups along whose maps tensors of a module or its children lie."""
    if module is None:
        return frozenset()
    prefix = f"{module}." if module else ""
    genes = np.zeros(space.maps, dtype=bool)
    for axis in space.axes:
        if axis.tensor.startswith(prefix):
            genes[axis.gene[axis.gene >= 0]] = True
    return frozenset(group.name for group in space.groups if genes[group.genes].any())


def relative_difference(expected: Any, outputs: Any) -> float:
    """The largest |difference| of any output, relative to that output's largest expected absolute value."""
    before, after = tensors_of(expected), tensors_of(outputs)
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return float("inf")
    pairs = [(a.double(), b.double()) for a, b in zip(before, after, strict=True) if a.numel()]
    return max((_relative(float((a - b).abs().max()), float(a.abs().max())) for a, b in pairs), default=0.0)


def _relative(difference: float, scale: float) -> float:
    if not math.isfinite(scale) or not math.isfinite(difference):
        return float("inf")
    return difference / scale if scale else float(difference > 0)
