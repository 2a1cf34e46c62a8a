"""Small networks that between them hold every construction that a search space must get right.

Each case says by hand how many genes each group has, in the order of the layers, and what stays whole and why.
Widths differ within a network, so that a mix-up shows in a shape. The classifier, which always stays whole as an
output, is not listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from evoprune.discovery.discover import search_space
from evoprune.space.search_space import SearchSpace
from tests.discovery.architectures import (
    ConvNeXt,
    DenseBlock,
    Fire,
    Functional,
    Inception,
    ManyInputs,
    NativeShuffle,
    Pixels,
    Residual,
    ShuffleV1,
    ShuffleV2,
    SqueezeExcite,
    Twice,
    TwoOutputs,
    bias_without_norm,
    circular,
    flattened,
    frozen_plain,
    geometries,
    group_norms,
    grouped,
    instance_norms,
    plain,
    prelus,
    separable,
    transposed,
)
from tests.discovery.awkward import (
    AuxiliaryHead,
    ChannelAttention,
    DataDependent,
    HardCodedView,
    Padded,
    SelfAttention,
    SinglePrecisionInside,
    SpatialAttention,
    Squeezed,
    UNet,
    UnevenSplit,
    Unfolded,
    WrittenInto,
    ZeroPaddedShortcut,
    blurred,
    signals,
    volumes,
    weight_normed,
    weight_normed_by_hook,
)


@dataclass(frozen=True)
class Case:
    """genes: of each group. whole: layer -> part of the reason. shapes: of the forward's arguments, batch first.

    scripts: `torch.jit.script` takes the original. dtype: what parameters and inputs are converted to.
    """

    build: Callable[[], nn.Module]
    genes: tuple[int, ...]
    whole: Mapping[str, str] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),)
    scripts: bool = True
    dtype: torch.dtype = torch.float32


def network(case: Case, seed: int = 0) -> nn.Module:
    """The network in eval mode, with every parameter and statistic drawn at random, none of them trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = case.build().eval()
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if not tensor.is_floating_point():
                    continue
                if tensor.ndim > 1 and tensor[0].numel() > 1:
                    tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
                elif "var" in name or "weight" in name or "scale" in name:
                    tensor.uniform_(0.5, 1.5)
                else:
                    tensor.uniform_(-0.5, 0.5)
        return model.to(case.dtype)


def example(case: Case, batch: int | None = None, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch or shape[0], *shape[1:]) for shape in case.shapes]
    return tuple(torch.randn(shape, generator=generator).to(case.dtype) for shape in shapes)


@cache
def space_of(name: str) -> SearchSpace:
    """The search space of a case, discovered once for all tests."""
    return search_space(network(CASES[name]), example(CASES[name]))


def genomes(name: str) -> st.SearchStrategy[np.ndarray]:
    """Genomes that the space of a case allows: full, at the least widths, or anything between."""
    space = space_of(name)
    seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
    drawn = st.builds(space.random, seeds, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
    bits = st.lists(st.integers(0, 1), min_size=space.genes, max_size=space.genes)
    mixed = bits.map(lambda row: space.repair(np.array(row, dtype=np.uint8), np.arange(space.genes)))
    return st.one_of(st.just(space.full()), drawn, mixed)


WHOLE_TOGETHER = "its maps can only go all together"

CASES: Mapping[str, Case] = {
    "plain": Case(plain, (8, 12)),
    "frozen parameters": Case(frozen_plain, (8, 12)),
    "bfloat16": Case(plain, (8, 12), dtype=torch.bfloat16),
    "float16": Case(plain, (8, 12), dtype=torch.float16),
    "bias without norm": Case(bias_without_norm, (8, 10, 16)),
    "residual": Case(lambda: Residual(False), (8, 12)),
    "residual with projection": Case(lambda: Residual(True), (8, 12, 16)),
    "depthwise separable": Case(lambda: separable(1), (8, 12)),
    "depthwise multiplier 2": Case(lambda: separable(2), (8, 12)),
    "grouped, groups go whole": Case(lambda: grouped(6), (6, 10)),
    "grouped, equal widths": Case(lambda: grouped(2), (6, 9, 10)),
    "dense block": Case(DenseBlock, (8, 4, 6)),
    "inception": Case(Inception, (8, 4, 5, 6, 7, 9)),
    "fire": Case(Fire, (8, 4, 6, 7)),
    "shufflenet v2": Case(ShuffleV2, (4, 6, 12)),
    "shufflenet v1": Case(lambda: ShuffleV1(False), (4,), {"first.0": WHOLE_TOGETHER}),
    "shufflenet v1, native": Case(lambda: ShuffleV1(True), (4,), {"first.0": WHOLE_TOGETHER}),
    "native shuffle": Case(NativeShuffle, (4, 10)),
    "squeeze and excitation": Case(SqueezeExcite, (8, 4, 12)),
    "flatten": Case(flattened, (8, 16), shapes=((2, 3, 4, 6),)),
    "group norms": Case(group_norms, (4, 6, 10)),
    "convnext": Case(ConvNeXt, (8, 20)),
    "instance norms": Case(instance_norms, (8, 12)),
    "prelus": Case(prelus, (8, 10)),
    "transposed": Case(transposed, (8, 5, 3, 4)),
    "geometries": Case(geometries, (8, 10, 12, 14)),
    "circular padding": Case(circular, (8, 10)),
    "module used twice": Case(lambda: Twice(False), (8,)),
    "weights tied": Case(lambda: Twice(True), (8,)),
    "functional": Case(Functional, (8, 6, 10)),
    "two inputs, dict output": Case(ManyInputs, (8, 12), shapes=((2, 3, 8, 8), (2, 1, 4, 4))),
    "two outputs": Case(TwoOutputs, (12,), {"stem.0": "output"}),
    "pixel shuffle": Case(Pixels, (8, 4, 6, 10)),
    "spatial attention": Case(SpatialAttention, (8, 12)),
    "channel attention": Case(ChannelAttention, (12,), {"stem.0": "read as pixels"}),
    "hard-coded view": Case(HardCodedView, (16,), {"stem": "does not run without"}),
    "zero-padded shortcut": Case(ZeroPaddedShortcut, (8, 12), {"second.0": "constant"}),
    "self-attention": Case(SelfAttention, (8, 2, 12)),
    "data-dependent reshape": Case(DataDependent, (12,), {"stem.0": "picks single maps"}),
    "signals": Case(signals, (8, 10), shapes=((2, 3, 16),)),
    "volumes": Case(volumes, (8, 10), shapes=((2, 1, 6, 6, 6),)),
    "fixed filter": Case(lambda: blurred(True), (8, 12), {}),
    "fixed filter, not stored": Case(lambda: blurred(False), (8, 12), {}),
    "auxiliary head": Case(AuxiliaryHead, (8, 12, 6), scripts=False),
    "padded": Case(Padded, (8, 10, 12)),
    "u-net": Case(UNet, (8, 12, 10)),
    "weight norm": Case(weight_normed, (8, 10, 12), {}, scripts=False),
    "weight norm by hook": Case(weight_normed_by_hook, (8, 10, 12), {}),
    "uneven split": Case(UnevenSplit, (4,), {"stem.0": "uneven part"}),
    "squeezed": Case(Squeezed, (8, 12)),
    "written into zeros": Case(WrittenInto, (12,), {"stem.0": "does not run without"}),
    "float32 inside": Case(SinglePrecisionInside, (8, 12)),
    "unfolded": Case(Unfolded, (8, 10)),
}
