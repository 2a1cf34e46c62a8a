"""Small networks whose maps, kernels and taps may all go, and genomes of them."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from hypothesis import strategies as st
from torch import nn

from evoprune.discovery.discover import search_space
from evoprune.space.search_space import SearchSpace
from tests.discovery.architectures import DenseBlock, Residual, grouped, plain, separable, transposed
from tests.space.networks import Case, example, network

MASKED: Mapping[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": lambda: Residual(True),
    "grouped, groups go whole": lambda: grouped(6),
    "grouped, equal widths": lambda: grouped(2),
    "depthwise": lambda: separable(2),
    "concatenating": DenseBlock,
    "transposed": transposed,
}

KINDS = [
    (maps, kernels, strides)
    for maps in (1, 0)
    for kernels in (1, 0)
    for strides in (1, 0)
    if maps or kernels or strides
]
"""All combinations of the three kinds of gene."""

SHARINGS = ("input_map", "layer", "kernel")


def network_of(name: str) -> nn.Module:
    """In eval mode, float32, everything in it drawn at random."""
    return network(Case(MASKED[name], ()))


@cache
def masked_space(
    name: str, kinds: tuple[int, int, int] = (1, 1, 1), sharing: str = "input_map", block: int = 1
) -> SearchSpace:
    maps, kernels, strides = map(bool, kinds)
    return search_space(
        network_of(name),
        example(Case(MASKED[name], ())),
        feature_maps=maps,
        kernels=kernels,
        strides=strides,
        kernel_block=block,
        stride_sharing=sharing,  # type: ignore[arg-type]
    )


def any_genomes(space: SearchSpace) -> st.SearchStrategy[np.ndarray]:
    """Any values whatever, few or many of the bits set; nothing says that a network is left."""

    def draw(seed: int, maps: float, kernels: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        genome = rng.integers(space.cardinality).astype(np.uint8)
        bits = space.maps + sum(genes.size for genes in space.kernels)
        genome[:bits] = rng.random(bits) < kernels
        genome[: space.maps] = rng.random(space.maps) < maps
        return genome

    shares = st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9, 1.0])
    return st.builds(draw, st.integers(0, 2**32 - 1), shares, shares)


def whole_genomes(space: SearchSpace) -> st.SearchStrategy[np.ndarray]:
    """Genomes that leave a network: the full one, or any other, repaired."""
    repaired = any_genomes(space).map(lambda genome: space.repair(genome, np.arange(space.genes)))
    return st.one_of(st.just(space.full()), repaired)
