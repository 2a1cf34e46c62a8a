"""What follows from lost kernels, by hand; canonical genes, repair, and keys as properties."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import evoprune as ep
from evoprune.discovery.discover import search_space
from evoprune.errors import SearchSpaceError
from evoprune.space.cost import cost
from evoprune.space.plan import Frozen, Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import cut_tensors
from tests.space.masked import MASKED, SHARINGS, any_genomes, masked_space, network_of

some = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def space_of(model: nn.Module, **options: Any) -> SearchSpace:
    return search_space(model.eval(), torch.randn(1, 1, 8, 8), **({"kernels": True} | options))


def chain() -> nn.Sequential:
    """1 -> 3 -> 2 -> 2 -> 2 maps by 1x1 convolutions. Maps: 0-2, 3-4, 5-6; kernels: see `without`."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)
    )


def without(space: SearchSpace, *kernels: tuple[str, int, int], maps: tuple[int, ...] = ()) -> Genome:
    """The full genome without these kernels (weight, output map, input map) and maps."""
    genome = space.full()
    genome[list(maps)] = 0
    for weight, output, source in kernels:
        genes = next(genes for genes in space.kernels if genes.weight == weight)
        genome[genes.start + genes.of_kernel[output, source]] = 0
    return genome


def maps_left(space: SearchSpace, genome: Genome) -> list[list[int]]:
    left = space.canonical(genome)
    return [left[group.genes].tolist() for group in space.groups]


def test_a_map_without_kernels_that_make_it_goes() -> None:
    space = space_of(chain())
    assert maps_left(space, without(space, ("2.weight", 0, 0), ("2.weight", 0, 1))) == [[1, 1, 1], [1, 1], [1, 1]]
    genome = without(space, ("2.weight", 0, 0), ("2.weight", 0, 1), ("2.weight", 0, 2))
    assert maps_left(space, genome) == [[1, 1, 1], [0, 1], [1, 1]]
    kept = space.phenotype(genome).kept
    assert {place: index.tolist() for place, index in kept.items()} == {
        ("2.weight", 0): [1],
        ("2.bias", 0): [1],
        ("4.weight", 1): [1],
    }


def test_a_map_without_kernels_that_read_it_goes() -> None:
    space = space_of(chain())
    assert maps_left(space, without(space, ("4.weight", 0, 1), ("4.weight", 1, 1))) == [[1, 1, 1], [1, 0], [1, 1]]


def test_removal_spreads_to_parts_that_only_removed_maps_use() -> None:
    """Map 0 of the second layer is not made. Map 0 of the third read it alone, map 2 of the first was for it."""
    space = space_of(chain())
    genome = without(
        space,
        *(("2.weight", 0, source) for source in range(3)),
        ("2.weight", 1, 2),  # only map 0 of the second layer would read map 2 of the first
        ("4.weight", 0, 1),  # map 0 of the third is made of map 0 of the second alone
    )
    assert maps_left(space, genome) == [[1, 1, 0], [0, 1], [0, 1]]


def test_kernels_of_removed_maps_neither_make_nor_read() -> None:
    """Only maps are removed here; the third layer's map 0 has one kernel left, and it read a map that goes."""
    space = space_of(chain())
    assert maps_left(space, without(space, ("4.weight", 0, 1), maps=(3,))) == [[1, 1, 1], [0, 1], [0, 1]]


def test_a_network_may_fall_apart_and_is_then_refused_and_repaired() -> None:
    space = space_of(chain())
    genome = without(space, *(("4.weight", output, source) for output in range(2) for source in range(2)))
    assert maps_left(space, genome) == [[0, 0, 0], [0, 0], [0, 0]]
    for use in (space.check, space.key, lambda genome: cost(space, genome)):
        with pytest.raises(
            SearchSpaceError, match="group 0 must keep at least 1 feature maps, and this genome keeps 0"
        ):
            use(genome)
    importance = np.zeros(space.genes)
    importance[[1, 4, 5]] = 1
    assert maps_left(space, space.repair(genome, importance)) == [[0, 1, 0], [0, 1], [1, 0]]


class Sum(nn.Module):
    """Two layers make the maps of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.one, self.two = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.out = nn.Conv2d(2, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        return self.out((self.one(maps) + self.two(maps)).relu())


def test_a_map_of_a_sum_lives_while_one_layer_makes_it() -> None:
    space = space_of(Sum())
    assert [group.layers for group in space.groups] == [("stem",), ("one", "two")]
    one = (("one.weight", 0, 0), ("one.weight", 0, 1))
    two = (("two.weight", 0, 0), ("two.weight", 0, 1))
    assert maps_left(space, without(space, *one)) == [[1, 1], [1, 1]]
    assert maps_left(space, without(space, *two)) == [[1, 1], [1, 1]]
    assert maps_left(space, without(space, *one, *two)) == [[1, 1], [0, 1]]


def test_genes_of_kernels_of_removed_maps_do_not_count() -> None:
    space = space_of(chain())
    removed = without(space, maps=(0, 3))
    for kernel in (("2.weight", 0, 1), ("2.weight", 1, 0), ("4.weight", 1, 0)):
        genome = removed.copy()
        genes = next(genes for genes in space.kernels if genes.weight == kernel[0])
        genome[genes.start + genes.of_kernel[kernel[1:]]] = 0
        assert (genome != removed).any()
        assert space.key(genome) == space.key(removed)
    assert space.key(without(space, ("2.weight", 1, 1), maps=(0, 3))) != space.key(removed)
    assert space.canonical(removed)[7:].tolist() == [0, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1]


def test_stride_genes_of_removed_maps_and_kernels_do_not_count() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 1))
    space = space_of(model, strides=True, stride_sharing="kernel")
    [strides] = space.strides
    genome = without(space, ("2.weight", 0, 1), maps=(3,))  # row 1 goes with its map, kernel (0, 1) by its gene
    before = space.key(genome)
    genome[strides.start + 1 : strides.start + 4] = [4, 5, 6]
    assert space.key(genome) == before
    assert space.canonical(genome)[strides.genes].tolist() == [0] * 4
    genome[strides.start] = 4
    assert space.key(genome) != before


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", MASKED)
def test_canonical_genomes_have_the_same_phenotype(name: str, sharing: str) -> None:
    """The same once more, the same weights as the genome's, and repair leads to a whole network of allowed widths."""
    space = masked_space(name, sharing=sharing, block=2 if sharing == "layer" else 1)
    tensors = {key: tensor.detach() for key, tensor in network_of(name).state_dict().items()}

    @some
    @given(any_genomes(space), st.integers(0, 2**32 - 1))
    def check(genome: Genome, seed: int) -> None:
        before = genome.copy()
        canonical = space.canonical(genome)
        assert (space.canonical(canonical) == canonical).all()
        one, other = (cut_tensors(tensors, space, space.phenotype(g)) for g in (genome, canonical))
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
        importance = np.random.default_rng(seed).random(space.genes)
        repaired = space.repair(genome, importance)
        assert (genome == before).all()
        widths = space.widths(space.check(repaired).genome).tolist()
        allowed = [space.allowed_width(group, width) for group, width in zip(space.groups, widths, strict=True)]
        assert widths == allowed
        assert space.key(space.repair(repaired, importance)) == space.key(repaired)

    check()


@some
@given(seed=st.integers(0, 2**32 - 1), round_to=st.integers(1, 4), minimum=st.integers(1, 5))
def test_repair_meets_least_and_rounded_widths(seed: int, round_to: int, minimum: int) -> None:
    """Also where kernels take maps away: what has died does not come back beside what is asked for."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 7, 1), nn.ReLU(), nn.Conv2d(7, 2, 1))
    space = space_of(model, min_maps=minimum, round_to=round_to)
    genome = (rng.random(space.genes) < rng.choice([0.1, 0.3, 0.6])).astype(np.uint8)
    left = space.canonical(space.repair(genome, rng.random(space.genes)))
    for group, width in zip(space.groups, space.widths(left).tolist(), strict=True):
        assert width >= group.minimum
        assert width % round_to == 0 or width == group.size


def test_equal_canonical_genomes_give_equal_outputs() -> None:
    space, model = masked_space("residual"), network_of("residual").double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    genome = space.random(np.random.default_rng(1), 0.4)
    with torch.no_grad():
        one, other = (ep.mask(model, space, g)(images) for g in (genome, space.canonical(genome)))
    assert (genome != space.canonical(genome)).any()
    assert torch.equal(one, other)


def test_the_fingerprint_does_not_depend_on_the_wording_of_reasons() -> None:
    space = space_of(chain())
    reworded = replace(space, frozen=tuple(Frozen(part.name, part.reason + " (reworded)") for part in space.frozen))
    assert space.frozen
    assert reworded.fingerprint == space.fingerprint
    other = replace(space, groups=(replace(space.groups[0], minimum=2), *space.groups[1:]))
    assert other.fingerprint != space.fingerprint
