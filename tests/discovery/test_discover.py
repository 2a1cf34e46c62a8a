"""Discovery: which maps go together is what was worked out by hand, and the network that came in is untouched."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from evoprune.config.schema import SpaceConfig
from evoprune.discovery.discover import explore, search_space
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from tests.space.blocks import conv_bn, head
from tests.space.networks import CASES, example, network, space_of

NAMES = list(CASES)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_groups_are_those_worked_out_by_hand(name: str) -> None:
    case = CASES[name]
    space = space_of(name)
    assert tuple(group.size for group in space.groups) == case.genes
    assert space.genes == sum(case.genes)
    reasons = {part.name: part.reason for part in space.frozen}
    for layer, reason in case.whole.items():
        assert reason in reasons[layer]
    prunable = {layer for group in space.groups for layer in group.layers}
    assert not prunable & {layer for layer in case.whole if layer != "second.0"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name: str) -> None:
    case = CASES[name]
    model = network(case).train()
    for module in list(model.modules())[::2]:
        module.eval()
    model.register_forward_hook(lambda module, args, output: None)
    before = copy.deepcopy(dict(model.state_dict()))
    tensors = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    modes = [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    search_space(model, example(case))

    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert tensors == {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
    assert modes == [module.training for module in model.modules()]
    assert wants == [parameter.requires_grad for parameter in model.parameters()]
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_plan_is_plain_data(name: str) -> None:
    space = space_of(name)
    genome = space.random(np.random.default_rng(0), keep=0.6)
    for other in (
        pickle.loads(pickle.dumps(space)),
        SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))),
    ):
        assert other.to_dict() == space.to_dict()
        assert other.key(genome) == space.key(genome)
        assert cost(other, genome) == cost(space, genome)


def test_the_same_network_gives_the_same_space() -> None:
    for name in ("inception", "shufflenet v2", "auxiliary head"):
        again = search_space(network(CASES[name]), example(CASES[name]))
        assert again.to_dict() == space_of(name).to_dict()


def test_each_map_of_2_by_3_pixels_takes_six_inputs_along() -> None:
    space = space_of("flatten")
    genome = space.full()
    genome[[1, 5]] = 0
    columns = [c for map_ in (0, 2, 3, 4, 6, 7) for c in range(6 * map_, 6 * map_ + 6)]
    assert space.phenotype(genome).kept["4.weight", 1].tolist() == columns


def test_a_concatenation_shifts_what_is_read() -> None:
    """Inception reads [one 0..3, three 4..9, pool 10..16]: map 2 of `three` is input 6."""
    space = space_of("inception")
    group = next(group for group in space.groups if group.layers == ("three.1.0",))
    genome = space.full()
    genome[group.start + 2] = 0
    assert space.phenotype(genome).kept["mix.0.weight", 1].tolist() == [i for i in range(17) if i != 6]


def test_a_shuffle_moves_what_is_read() -> None:
    """Maps 1 of both halves go; shuffled, they are read at places 2 and 3. The branch reads its half at place 1."""
    space = space_of("shufflenet v2")
    genome = space.full()
    genome[1] = 0
    kept = space.phenotype(genome).kept
    assert kept["stem.0.weight", 0].tolist() == [0, 2, 3, 4, 6, 7]
    assert kept["branch.0.0.weight", 1].tolist() == [0, 2, 3]
    assert kept["branch.2.0.weight", 0].tolist() == [0, 2, 3]
    assert kept["last.0.weight", 1].tolist() == [0, 1, 4, 5, 6, 7]


def test_the_zero_padded_shortcut_leaves_its_zeros() -> None:
    space = space_of("zero-padded shortcut")
    genome = space.full()
    genome[0] = 0
    assert space.phenotype(genome).kept["second.0.weight", 0].tolist() == [i for i in range(16) if i != 4]


def test_a_single_map_that_squeeze_would_swallow_is_not_allowed() -> None:
    space = space_of("squeezed")
    assert [group.minimum for group in space.groups] == [1, 2]
    assert space.widths(space.random(np.random.default_rng(0), keep=0)).tolist() == [1, 2]


def test_the_proof_says_how_far_outputs_lay_apart() -> None:
    case = CASES["residual"]
    assert explore(network(case), example(case), SpaceConfig()).max_difference < 1e-13
    case = CASES["float32 inside"]
    assert explore(network(case), example(case), SpaceConfig()).max_difference < 1e-5


def test_a_head_of_zeros_hides_nothing_from_the_proof() -> None:
    """The hard-coded view must be found out although nothing that it does reaches the outputs."""
    case = CASES["hard-coded view"]
    model = network(case)
    nn.init.zeros_(model.get_submodule("out").weight)  # type: ignore[arg-type]
    space = search_space(model, example(case, batch=1))
    assert tuple(group.size for group in space.groups) == case.genes


class OutsideOfPytorch(nn.Module):
    """The mean over all maps is taken in numpy, where no operation is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = conv_bn(3, 8), conv_bn(8, 12), head(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        gate = torch.from_numpy(x.numpy().mean(axis=1, keepdims=True))
        return self.head(self.last(x * gate))


def test_what_leaves_pytorch_is_found_out_by_its_numbers() -> None:
    space = search_space(OutsideOfPytorch().eval(), torch.randn(2, 3, 6, 6))
    assert [group.layers for group in space.groups] == [("last.0",)]
    assert "masked and cut outputs differ" in {part.name: part.reason for part in space.frozen}["stem.0"]


def options_network() -> nn.Module:
    return nn.Sequential(conv_bn(3, 24), conv_bn(24, 40), conv_bn(40, 12), head(12)).eval()


def from_options(**options: object) -> SearchSpace:
    return search_space(options_network(), torch.randn(2, 3, 6, 6), **options)  # type: ignore[arg-type]


def test_keep_names_layers_by_pattern() -> None:
    space = from_options(keep=("1.*",))
    assert [group.layers for group in space.groups] == [("0.0",), ("2.0",)]
    assert {part.name: part.reason for part in space.frozen}["1.0"] == "space.keep names it (1.*)"


def test_keep_first_conv() -> None:
    space = from_options(keep_first_conv=True)
    assert [group.layers for group in space.groups] == [("1.0",), ("2.0",)]
    assert "keep_first_conv" in {part.name: part.reason for part in space.frozen}["0.0"]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 1.0])
def test_least_widths_and_multiples(keep: float) -> None:
    space = from_options(min_maps=5, round_to=16)
    assert [(group.size, group.minimum, group.round_to) for group in space.groups] == [
        (24, 5, 16),
        (40, 5, 16),
    ]
    assert "round_to" in {part.name: part.reason for part in space.frozen}["2.0"]
    rng = np.random.default_rng(3)
    for _ in range(10):
        widths = space.widths(space.random(rng, keep))
        assert widths[0] in (16, 24)
        assert widths[1] in (16, 32, 40)
    genome = space.full()
    genome[:20] = 0
    repaired = space.repair(genome, np.arange(space.genes, dtype=float))
    assert space.widths(repaired).tolist() == [16, 40]
    assert repaired[8:24].all()  # the most important of those that were gone came back
    assert not repaired[:8].any()


def test_min_maps_that_a_group_does_not_have_leave_it_whole() -> None:
    space = from_options(min_maps=30)
    assert [group.size for group in space.groups] == [40]
    assert "min_maps" in {part.name: part.reason for part in space.frozen}["0.0"]


def test_a_genome_keeps_the_share_that_was_asked_for() -> None:
    space = from_options()
    assert space.widths(space.random(np.random.default_rng(0), keep=0.25)).tolist() == [6, 10, 3]


def test_keys_tell_genomes_apart() -> None:
    space = from_options()
    rng = np.random.default_rng(0)
    genomes = [space.random(rng, 0.5) for _ in range(20)]
    assert len({space.key(genome) for genome in genomes}) == 20
    assert space.key(genomes[0]) == space.key(genomes[0].astype(np.int64))
