"""Starts, crossover and mutation of maps, kernels and strides together; importance by hand."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import evoprune as ep
from evoprune.criteria.importance import kernel_values, magnitude, mask_shares
from evoprune.criteria.preferences import Preferences, magnitude_preferences
from evoprune.discovery.discover import search_space
from evoprune.search.fit_to_cost import fit_to_cost, smallest_genome
from evoprune.search.operators import GeneOperators, MutationRates
from evoprune.search.random_search import random_genome_at
from evoprune.search.width_operators import WidthOperators
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

some = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@cache
def wide(kinds: tuple[bool, bool, bool] = (True, True, True)) -> tuple[nn.Module, SearchSpace]:
    """1 -> 10 -> 12 -> 3 maps of 3x3. 22 maps, 120 + 36 kernels, 1 + 10 + 12 stride genes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 12, 3), nn.ReLU(), nn.Conv2d(12, 3, 3))
    maps, kernels, strides = kinds
    images = torch.randn(1, 1, 10, 10)
    return model.eval(), search_space(model, images, feature_maps=maps, kernels=kernels, strides=strides)


def breeding(rates: tuple[float, float, float] = (0.02, 0.02, 0.05)) -> GeneOperators:
    model, space = wide()
    return GeneOperators(space, magnitude_preferences(model, space), MutationRates(*rates))


def kinds(genome: Genome) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.split(genome.astype(int), [22, 178])  # type: ignore[return-value]


# --- importance


def by_hand() -> tuple[nn.Module, SearchSpace]:
    """2 inputs, 2 outputs, 1x3: kernels [1 -2 3] and [0 0 0], [4 4 4] and [0 -6 0]."""
    model = nn.Sequential(nn.Conv2d(2, 2, (1, 3), bias=False)).eval()
    rows = torch.tensor([[[1.0, -2, 3], [0, 0, 0]], [[4, 4, 4], [0, -6, 0]]])
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(rows[:, :, None])
    return model, search_space(model, torch.randn(1, 2, 1, 5), feature_maps=False, kernels=True, strides=True)


def test_kernel_l1_by_hand() -> None:
    model, space = by_hand()
    [importance] = kernel_values(space, magnitude(model, space))
    assert importance.tolist() == pytest.approx([2, 0, 4, 2])
    blocks = search_space(model, torch.randn(1, 2, 1, 5), feature_maps=False, kernels=True, kernel_block=2)
    assert kernel_values(blocks, magnitude(model, blocks))[0].tolist() == pytest.approx([3, 1])
    assert magnitude_preferences(model, space).kernels[0].tolist() == pytest.approx([1 / 3, 0, 1, 2 / 3])


def test_the_norm_that_each_mask_would_keep_by_hand() -> None:
    """Kernels of input 0: |taps| add up to 5, 6, 7; of input 1: 0, 6, 0. Masks: all, {0, 2}, {1}, {0}, {2}."""
    model, space = by_hand()
    [kept] = mask_shares(space, magnitude(model, space))
    assert kept[0].tolist() == pytest.approx([1, 12 / 18, 6 / 18, 5 / 18, 7 / 18])
    assert kept[1].tolist() == pytest.approx([1, 0, 1, 0, 0])
    by_layer = search_space(model, torch.randn(1, 2, 1, 5), feature_maps=False, strides=True, stride_sharing="layer")
    assert mask_shares(by_layer, magnitude(model, by_layer))[0][0].tolist() == pytest.approx(
        [1, 12 / 24, 12 / 24, 5 / 24, 7 / 24]
    )


def test_weights_of_zero_keep_nothing() -> None:
    model, space = by_hand()
    nn.init.zeros_(model.get_parameter("0.weight"))
    assert not mask_shares(space, magnitude(model, space))[0].any()
    assert not kernel_values(space, magnitude(model, space))[0].any()


def test_kernels_of_a_transposed_convolution_are_counted_outputs_first() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 1, bias=False)).eval()
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.arange(6.0).reshape(2, 3, 1, 1))
    space = search_space(model, torch.randn(1, 2, 4, 4), feature_maps=False, kernels=True)
    assert kernel_values(space, magnitude(model, space))[0].tolist() == [0, 3, 1, 4, 2, 5]


# --- starts


def test_starts_of_every_kind() -> None:
    """Ranked ones keep kernels of the largest norm and, at each gene, the mask that keeps most of it."""
    operators, space = breeding(), wide()[1]
    population = operators.initial_genomes(16, np.random.default_rng(0))
    shares = []
    for genome in population[:10:2]:  # narrower ones may fall apart and be repaired
        for genes, ranks in zip(space.kernels, operators.preferences.kernels, strict=True):
            bits = genome[genes.genes]
            assert (np.diff(bits[np.argsort(ranks)].astype(int)) >= 0).all()
            shares.append(bits.mean())
        for strides, kept in zip(space.strides, operators.preferences.strides, strict=True):
            taps = strides.tap_table.sum(1)
            chosen = genome[strides.genes]
            assert len(set(taps[chosen])) == 1
            alike = np.flatnonzero(taps == taps[chosen[0]])
            assert (kept[np.arange(strides.size), chosen] == kept[:, alike].max(1)).all()
    assert max(shares) > 0.75
    assert min(shares) < 0.6
    drawn = [genome[space.strides[1].genes] for genome in population[1::2]]
    assert all(len(set(space.strides[1].tap_table.sum(1)[values])) == 1 for values in drawn)
    assert max(len(set(values.tolist())) for values in drawn) > 1
    ranks = operators.preferences.kernels[0]
    rest = [genome[space.kernels[0].genes][np.argsort(ranks)].astype(int) for genome in population[1::2]]
    assert sum((np.diff(bits) < 0).any() for bits in rest) >= 6  # one of 8 may keep them all


# --- children


@some
@given(seed=st.integers(0, 2**32 - 1), rates=st.tuples(*[st.floats(0, 1)] * 3))
def test_children_are_valid(seed: int, rates: tuple[float, float, float]) -> None:
    operators, space, rng = breeding(rates), wide()[1], np.random.default_rng(seed)
    one, other = (space.random(rng, keep) for keep in (0.2, 0.7))
    before = one.copy(), other.copy()
    for child in (operators.crossover(one, other, rng), operators.mutate(one, rng)):
        space.check(child)
        assert child.dtype == np.uint8
        assert (child < space.cardinality).all()
    assert (one == before[0]).all()
    assert (other == before[1]).all()


@some
@given(seed=st.integers(0, 2**32 - 1))
def test_crossover_takes_parts_whole(seed: int) -> None:
    """The parents have lost few kernels, so that no map dies and nothing has to be repaired."""
    operators, space, rng = breeding(), wide()[1], np.random.default_rng(seed)
    one, other = (space.random(rng, 0.9) for _ in range(2))
    for parent in (one, other):
        parent[space.kernels[1].genes] = 1  # every one of the last maps is read
    child = operators.crossover(one, other, rng)
    for part in space.parts:
        if part not in space.kernels:
            assert child[part.genes].tolist() in (one[part.genes].tolist(), other[part.genes].tolist())
    for kernels, makes, reads in zip(space.kernels, (slice(10, 22), None), (slice(0, 10), slice(10, 22)), strict=True):
        wanted = []
        for parent in (one, other):  # kernels of maps that the parent does not have are all there
            back = (child > parent)[:22]
            made = back[makes] if makes else np.zeros(3, bool)
            wanted.append(parent[kernels.genes] | (made[:, None] | back[reads]).reshape(-1))
        assert child[kernels.genes].tolist() in [genes.tolist() for genes in wanted]


@pytest.mark.parametrize("kind", range(3))
def test_each_kind_has_a_rate_of_its_own(kind: int) -> None:
    """At a rate of 0.1 for one kind and 0 for the others, that kind changes, and about so much.

    Kernels of maps that have gone are not counted: they come back with their maps.
    """
    rates = [0.0, 0.0, 0.0]
    rates[kind] = 0.1
    operators, rng = breeding((rates[0], rates[1], rates[2])), np.random.default_rng(0)
    genome = wide()[1].full()
    genome[:22:4], genome[23:178:5], genome[179:] = 0, 0, 1  # room on both sides
    genome = wide()[1].canonical(genome)
    stays = genome[:22] != 0
    counted = np.ones(len(genome), dtype=bool)
    counted[22:178] = np.concatenate([np.outer(stays[10:], stays[:10]).reshape(-1), np.tile(stays[10:], 3)])
    changed = np.array([(operators.mutate(genome, rng) != genome) & counted for _ in range(300)])
    share = np.array([part.mean() / all_of.mean() for part, all_of in zip(
        np.split(changed, [22, 178], axis=1), np.split(counted, [22, 178]), strict=True)])  # fmt: skip
    assert 0.05 < share[kind] < 0.2
    others = [place for place in range(3) if place != kind]
    assert (share[others] < 0.02).all()


def test_strides_move_to_the_next_number_of_taps_and_favour_the_norm() -> None:
    """From {0, 2} of 1x3 (2 taps) to 3 or to 1; of the single taps mostly to the one with all of the norm."""
    model, space = by_hand()
    preferences = magnitude_preferences(model, space)
    operators, rng = GeneOperators(space, preferences, MutationRates(0.02, 0, 1)), np.random.default_rng(0)
    genome = space.full()
    genome[space.strides[0].genes] = 1
    children = np.array([operators.mutate(genome, rng)[space.strides[0].genes] for _ in range(300)])
    assert set(children[:, 1].tolist()) == {0, 1, 2}
    single = children[:, 0][children[:, 0] > 1]
    assert set(single.tolist()) == {2, 3, 4}


def test_the_same_generator_gives_the_same_children() -> None:
    def bred() -> list[list[int]]:
        operators, rng = breeding(), np.random.default_rng(4)
        population = operators.initial_genomes(7, rng)
        child = operators.crossover(population[3], population[4], rng)
        return [genome.tolist() for genome in (*population, child, operators.mutate(child, rng))]

    assert bred() == bred()


def test_preferences_have_a_value_for_every_gene() -> None:
    model, space = wide()
    preferences: Preferences = magnitude_preferences(model, space)
    assert preferences.genes.shape == (space.genes,)
    assert ep.SearchSpace.repair(space, space.full(), preferences.genes).tolist() == space.full().tolist()


# --- maps that come back where there are kernels


def halves() -> tuple[GeneOperators, Genome, Genome]:
    """Of maps and kernels: the first 5 and 6 of 10 and 12 maps with all their kernels, and the others."""
    model, space = wide((True, True, False))
    first, other = space.full(), space.full()
    first[[*range(5, 10), *range(16, 22)]] = 0
    other[[*range(5), *range(10, 16)]] = 0
    operators = GeneOperators(space, magnitude_preferences(model, space), MutationRates(0.02, 0.02, 0.05))
    return operators, space.canonical(first), space.canonical(other)


def test_genes_lost_with_a_map_return_with_it() -> None:
    """A removed map's kernels are gone; the whole network has 120 + 36 kernels besides."""
    operators, first, _ = halves()
    space = operators.space
    assert first[space.kernels[0].genes].sum() == 6 * 5
    assert (space.with_restored_kernels(space.full(), first) == 1).all()
    assert (space.with_restored_kernels(first, first) == first).all()


def test_other_widths_are_wider_as_often_as_narrower() -> None:
    operators, first, _ = halves()
    rng, space = np.random.default_rng(0), operators.space
    widths = [space.widths(space.canonical(WidthOperators(operators).mutate(first, rng))) for _ in range(200)]
    assert np.mean(np.array(widths)[:, 0] > 5) > 0.25
    assert np.mean(np.array(widths)[:, 1] > 6) > 0.25
    resized = space.canonical(WidthOperators(operators).resized(first, np.array([8, 12])))
    assert space.widths(resized).tolist() == [8, 12]
    assert resized[space.kernels[0].genes].sum() == 12 * 8


def test_mutations_of_maps_give_back_too() -> None:
    operators, first, _ = halves()
    rng, space = np.random.default_rng(0), operators.space
    children = [space.widths(space.canonical(operators.mutate(first, rng))).sum() for _ in range(300)]
    assert np.mean(np.array(children) > 11) > 0.1  # a quarter of the mutations widen, of kernels alone, too


def test_crossed_maps_keep_their_widths() -> None:
    """Maps of one parent with kernels of the other, which has none for them: they are all there."""
    operators, first, other = halves()
    rng, space = np.random.default_rng(0), operators.space
    for _ in range(20):
        assert space.widths(space.canonical(operators.crossover(first, other, rng))).tolist() == [5, 6]


def test_maps_come_back_for_a_target() -> None:
    operators, first, _ = halves()
    space = operators.space
    target = cost(space, space.full()).macs
    whole = fit_to_cost(space, first, target, lambda genome: cost(space, genome).macs, operators.preferences.genes)
    assert (whole == 1).all()


def test_kernels_alone_may_go_for_a_target() -> None:
    """The least genome has none; what has one input stays: 10 maps of 9 taps at 8 x 8 places."""
    _, space = wide((False, True, False))
    assert cost(space, smallest_genome(space)).macs == 10 * 9 * 64
    ranks = np.random.default_rng(0).random(space.genes)
    genome = fit_to_cost(space, space.full(), 8000, lambda one: cost(space, one).macs, ranks)
    assert 8000 - 9 * 36 < cost(space, genome).macs <= 8000


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("kinds", [(False, False, True), (True, False, True), (True, True, True)])
def test_strides_are_drawn_for_a_target(share: float, kinds: tuple[bool, bool, bool]) -> None:
    """Masks drawn at random keep a third to a half of the taps; then maps go, or masks get fewer or more taps.

    What moves last is one gene: of strides those that leave a map, a tenth of the MACs at most.
    """
    _, space = wide(kinds)
    whole = cost(space, space.full()).macs
    rng = np.random.default_rng(0)
    for _ in range(10):
        genome = random_genome_at(space, share * whole, lambda one: cost(space, one).macs, rng)
        assert (share - 0.1) * whole < cost(space, genome).macs <= share * whole
        space.check(genome)
