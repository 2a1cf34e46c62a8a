"""Whole networks lowered: the same outputs whatever is chosen for each layer, an ordinary module that exports."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, fx, nn

import evoprune as ep
from evoprune.discovery.proof import relative_difference
from evoprune.networks.zoo import build_network
from evoprune.surgery.lowering.lower import DENSE, lower, lower_compacted
from evoprune.training.layout import lay_out
from tests.space.masked import MASKED, SHARINGS, masked_space, network_of, whole_genomes

few = settings(max_examples=2, deadline=None, derandomize=True, database=None)
one = settings(max_examples=1, deadline=None, derandomize=True, database=None)


def last_is_fastest(calls: Sequence[Callable[[], object]]) -> list[float]:
    """A stopwatch by which every further form is faster: the last form of a layer is chosen, never the plain one."""
    for call in calls:
        call()
    return [1 / (1 + number) for number in range(len(calls))]


def first_is_fastest(calls: Sequence[Callable[[], object]]) -> list[float]:
    return [1.0 + number for number in range(len(calls))]


class AnyIsFastest:
    """A stopwatch by which a form drawn at random is the fastest."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[float]:
        times = 1 + self._rng.permutation(len(calls)).astype(float)
        if len(calls) == 2:
            times[1] = 0.5  # of the plain and the planned network, the planned one
        return times.tolist()


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", MASKED)
def test_lowered_networks_are_the_masked_ones(name: str, sharing: str) -> None:
    space = masked_space(name, (1, 1, 1), sharing, block=2)
    model, exact = network_of(name), network_of(name).double()
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    @(one if sharing == "kernel" else few)  # masks of single kernels make the most blocks, which take the longest
    @given(whole_genomes(space))
    def check(genome: np.ndarray) -> None:
        masked = outputs(ep.mask(exact, space, genome), images.double())
        for stopwatch in (last_is_fastest, AnyIsFastest(int(genome.sum()))):
            lowered = lower(exact, space, genome, images[:1].double(), stopwatch=stopwatch)
            assert isinstance(lowered, fx.GraphModule)
            assert relative_difference(masked, outputs(lowered, images.double())) <= 1e-9
        single = lower(model, space, genome, images[:1], stopwatch=last_is_fastest)
        assert relative_difference(masked, outputs(single, images)) <= 1e-4

    check()


def masked_chain() -> tuple[Any, Tensor]:
    """Two 3x3 convolutions; the second has one of three columns of each input, in turns."""
    generator = torch.Generator().manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for norm in (model[1], model[5]):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        for column in range(12):
            taps = torch.zeros(9, dtype=torch.float64)
            taps[column % 3 :: 3] = 1
            model[4].weight[:, column] *= taps.reshape(3, 3)
    return model, torch.randn(2, 3, 8, 8, generator=generator).double()


def choosing(wanted: str) -> Callable[[Sequence[Callable[[], object]]], list[float]]:
    """A stopwatch by which the one form with this number of convolutions' weights in it is the fastest."""

    def stopwatch(calls: Sequence[Callable[[], object]]) -> list[float]:
        times = [1.0] * len(calls)
        for number, call in enumerate(calls):
            shapes = [str(tuple(p.shape)) for p in getattr(call, "func").parameters()]  # noqa: B009
            if wanted in shapes or (len(calls) == 2 and number == 1):
                times[number] = 0.1
        return times

    return stopwatch


def test_an_order_of_maps_is_folded_into_the_layer_before_and_norms_and_pooling_are_put_right() -> None:
    model, images = masked_chain()
    lowered = lower_compacted(model, images, stopwatch=choosing("(8, 12, 3, 1)"))
    (plan,) = lowered.plans
    assert plan.form == "shifted 3x1"
    network: Any = lowered.network
    assert relative_difference(outputs(model, images), outputs(network, images)) <= 1e-12
    called = [node.target for node in network.graph.nodes if node.op.startswith("call")]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert torch.index_select not in called
    assert "index_select" not in called  # the first convolution makes its maps in the order that is wanted
    assert called.index(torch.max_pool2d) < called.index(torch.relu_)


def test_what_several_read_is_selected_when_it_runs() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = masked_chain()[0]
            self.other = nn.Conv2d(12, 8, 1).double()

        def forward(self, images: Tensor) -> Tensor:
            maps = self.body[3](self.body[2](self.body[1](self.body[0](images))))
            return self.body[5](self.body[4](maps)) + self.other(maps)

    model, images = Fork().eval(), masked_chain()[1]
    lowered = lower_compacted(model, images, stopwatch=choosing("(8, 12, 3, 1)"))
    network: Any = lowered.network
    assert relative_difference(outputs(model, images), outputs(network, images)) <= 1e-12
    assert "index_select" in [node.target for node in network.graph.nodes]


def test_nothing_is_lowered_that_is_slower() -> None:
    model, images = masked_chain()
    lowered = lower_compacted(model, images, stopwatch=first_is_fastest)
    assert [plan.form for plan in lowered.plans] == [DENSE]
    assert relative_difference(outputs(model, images), outputs(lowered.network, images)) <= 1e-12


def test_the_paper_s_product_is_among_what_is_measured() -> None:
    model, images = masked_chain()
    (plan,) = lower_compacted(model, images, stopwatch=first_is_fastest).plans
    assert {"im2col", "shifted 3x1", "3x1", DENSE} <= set(plan.measured_ms)


def test_masks_say_what_stays_where_a_weight_is_zero_by_chance() -> None:
    model, images = masked_chain()
    mask = model[4].weight != 0
    with torch.no_grad():
        model[4].weight[0, 0, 1, 0] = 0.0
    (plan,) = lower_compacted(model, images, {"4.weight": mask}, stopwatch=choosing("(8, 12, 3, 1)")).plans
    assert plan.form == "shifted 3x1"


def test_the_model_is_left_as_it_is() -> None:
    model, images = masked_chain()
    model.train()
    before = copy.deepcopy(model.state_dict())
    lower_compacted(model, images, stopwatch=last_is_fastest)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class ReadsValues(nn.Module):
    """A forward that depends on values, which no tracing can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = masked_chain()[0][:6]

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.layers(images)
        return F.relu(outputs) if bool(outputs.sum() > 0) else -outputs


def test_a_network_that_cannot_be_traced_is_lowered_layer_by_layer() -> None:
    model, images = ReadsValues().eval(), masked_chain()[1]
    lowered = lower_compacted(model, images, stopwatch=last_is_fastest)
    assert [plan.layer for plan in lowered.plans] == ["layers.4"]
    assert lowered.plans[0].form != DENSE
    for sign in (1, -1):
        assert relative_difference(outputs(model, sign * images), outputs(lowered.network, sign * images)) <= 1e-12
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lowered.network.modules())


def test_a_shared_convolution_is_lowered_once_for_both_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(self.norm(self.conv(images)))

    model = Twice().double().eval()
    with torch.no_grad():
        model.conv.weight[..., 0] = 0
        model.norm.bias.fill_(0.3)
    images = torch.randn(2, 6, 5, 5).double()
    lowered = lower_compacted(model, images, stopwatch=last_is_fastest).network
    assert relative_difference(outputs(model, images), outputs(lowered, images)) <= 1e-12


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2_small"])
def test_networks_of_the_zoo_lose_all_their_batch_norms(name: str) -> None:
    model = build_network(name, (1, 28, 28), 10, torch.Generator().manual_seed(0)).double().eval()
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1)).double()
    lowered = lower_compacted(model, images, stopwatch=first_is_fastest).network
    assert relative_difference(outputs(model, images), outputs(lowered, images)) <= 1e-12
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lowered.modules())


def volumes() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 8, 3), nn.ReLU(), nn.Conv3d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize("strides", [False, True])
def test_networks_over_volumes_are_lowered_in_the_contiguous_layout(strides: bool) -> None:
    model, images = volumes(), torch.randn(2, 1, 8, 12, 12, generator=torch.Generator().manual_seed(1)).double()
    space = ep.search_space(model, images[:1], strides=strides)
    for genome in (space.full(), space.random(np.random.default_rng(0), 0.5)):
        lowered = lower(model, space, genome, images[:1], stopwatch=last_is_fastest)
        expected = outputs(ep.mask(model, space, genome), images)
        assert relative_difference(expected, outputs(lowered, images)) <= 1e-12
        assert all(tensor.is_contiguous() for tensor in lowered.parameters())


def test_a_parameter_of_five_dimensions_among_images_keeps_the_contiguous_layout() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.cube = nn.Conv2d(3, 6, 3), nn.Conv3d(1, 4, (3, 3, 3))
            self.out = nn.Linear(4, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.out(self.cube(self.plain(images).relu()[:, None]).relu().mean((2, 3, 4)))

    model, images = Stacked().double().eval(), torch.randn(2, 3, 8, 8).double()
    lowered = lower_compacted(model, images, stopwatch=first_is_fastest).network
    assert relative_difference(outputs(model, images), outputs(lowered, images)) <= 1e-12
    assert lay_out(model, images) == torch.contiguous_format
    assert all(tensor.is_contiguous() for tensor in model.parameters())


def test_a_lowered_network_is_an_ordinary_module() -> None:
    model, images = masked_chain()
    lowered = lower_compacted(model, images, stopwatch=last_is_fastest).network
    other = copy.deepcopy(lowered)
    other.load_state_dict(lowered.state_dict())
    program = torch.export.export(lowered, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=512)},))
    more = images.repeat(3, 1, 1, 1)
    for same in (other, program.module()):
        assert relative_difference(outputs(lowered, more), outputs(same, more)) <= 1e-12
