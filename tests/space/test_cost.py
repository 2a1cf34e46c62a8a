"""The cost read off the plan is what independent counters find in the compacted module."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evoprune.discovery.discover import search_space
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from evoprune.space.summary import space_report
from evoprune.surgery.apply import compact
from tests.discovery.awkward import Blur
from tests.space.networks import CASES, Case, example, genomes, network, space_of


def counted_macs(model: nn.Module, case: Case, batch: int = 2) -> int:
    counter = FlopCounterMode(display=False)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operation is not counted
    with torch.no_grad(), sdpa_kernel([SDPBackend.MATH]), counter:
        model(*example(case, batch))
    torch.backends.mha.set_fastpath_enabled(fastpath)
    flops = counter.get_total_flops()
    assert flops % (2 * batch) == 0
    return flops // 2 // batch


def stored_bytes(model: nn.Module) -> int:
    """Bytes of a state dict, tied tensors once."""
    tensors = {value.data_ptr() or id(value): value for value in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", list(CASES))
def test_cost_counts_the_remaining_network(name: str) -> None:
    case, space = CASES[name], space_of(name)
    model = network(case)

    @settings(max_examples=4, deadline=None, derandomize=True, database=None)
    @given(genomes(name))
    def check(genome: np.ndarray) -> None:
        small = compact(model, space, genome)
        price = cost(space, genome)
        assert price.params == sum(parameter.numel() for parameter in small.parameters())
        assert price.bytes == stored_bytes(small)
        assert price.macs == counted_macs(small, case)

    check()


def test_a_network_counted_by_hand() -> None:
    """8C3 on 8x8, pooled, 12C3 on 4x4, 5 classes; without bias, with batch norm."""
    space = space_of("plain")
    full = cost(space, space.full())
    assert full.macs == 64 * 8 * 3 * 9 + 16 * 12 * 8 * 9 + 5 * 12
    assert full.params == 8 * 3 * 9 + 2 * 8 + 12 * 8 * 9 + 2 * 12 + 5 * 12 + 5
    assert full.bytes == 4 * (full.params + 2 * 8 + 2 * 12) + 2 * 8  # running statistics, batches tracked
    genome = space.full()
    genome[[0, 1, 8]] = 0  # 6 and 11 maps stay
    less = cost(space, genome)
    assert less.macs == 64 * 6 * 3 * 9 + 16 * 11 * 6 * 9 + 5 * 11
    assert less.params == 6 * 3 * 9 + 2 * 6 + 11 * 6 * 9 + 2 * 11 + 5 * 11 + 5


def test_half_precision_takes_half_the_bytes() -> None:
    single, half = space_of("plain"), space_of("float16")
    batches_tracked = 2 * 8
    assert (
        cost(single, single.full()).bytes - batches_tracked
        == 2 * (cost(half, half.full()).bytes - batches_tracked)
    )  # fmt: skip


def test_auxiliary_heads_cost_parameters_and_no_macs() -> None:
    space = space_of("auxiliary head")
    genome = space.full()
    side = next(group for group in space.groups if group.layers == ("side.0.0",))
    genome[side.start] = 0
    assert cost(space, genome).macs == cost(space, space.full()).macs
    assert cost(space, space.full()).params - cost(space, genome).params == 8 * 9 + 2 + 5


def test_attention_is_counted_in_its_products() -> None:
    """64 pixels of 8 maps: queries, keys, values and output 4 * 64 * 8 * 8; products 2 * 64 * 64 * 8."""
    space = space_of("self-attention")
    rest = 64 * 8 * 27 + 64 * 12 * 8 * 9 + 12 * 5
    assert cost(space, space.full()).macs == rest + 4 * 64 * 8 * 8 + 2 * 64 * 64 * 8


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32 - 1))
def test_every_removal_lowers_the_cost(seed: int) -> None:
    space: SearchSpace = space_of("inception")
    rng = np.random.default_rng(seed)
    more = space.random(rng, 0.8)
    less = space.repair(more & space.random(rng, 0.5), rng.random(space.genes))
    costs = cost(space, less), cost(space, space.full())
    assert costs[0].macs < costs[1].macs
    assert costs[0].params < costs[1].params


@pytest.mark.parametrize(("persistent", "stored"), [(False, 4400), (True, 4688)])
def test_a_fixed_filter_costs_macs_and_no_parameters(persistent: bool, stored: int) -> None:
    """Images of 24, maps of 22, 11, 9 and 7 pixels a side."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), Blur(8, persistent), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    ).eval()
    space = search_space(model, torch.randn(1, 3, 24, 24))
    whole = cost(space, space.full())
    assert whole.macs == 8 * 3 * 9 * 22**2 + 8 * 9 * 11**2 + 8 * 8 * 9 * 9**2 + 4 * 8 * 9 * 7**2
    assert whole.params == (216 + 8) + (576 + 8) + (288 + 4)
    assert whole.bytes == stored  # 4 bytes each, and the filter's 8 x 9 values if it is in the state dict
    report = space_report("blurred", space)
    params = {layer.name: layer.params for layer in report.layers}
    assert params == {"0": 224, "1.taps": 0, "2": 584, "4": 292}
    assert (report.macs, report.params) == (whole.macs, whole.params)
