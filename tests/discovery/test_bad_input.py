"""What cannot be searched is refused in one sentence that says why."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evoprune.config.schema import SpaceConfig
from evoprune.discovery.discover import search_space
from evoprune.errors import ConfigError, SearchSpaceError, UserError
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.apply import compact, mask
from evoprune.surgery.lowering.lower import lower
from tests.space.blocks import conv_bn, head
from tests.space.networks import CASES, example, network


def refuse(model: nn.Module, example_input: object, **options: object) -> str:
    with pytest.raises(SearchSpaceError) as caught:
        search_space(model, example_input, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert "\n" not in message
    return message


def plain() -> nn.Module:
    return network(CASES["plain"])


def test_a_forward_that_fails_is_told_with_its_own_error_and_the_shape() -> None:
    message = refuse(plain(), torch.randn(2, 4, 8, 8))
    assert "shape (2, 4, 8, 8)" in message
    assert "RuntimeError" in message
    assert "expected input[2, 4, 8, 8] to have 3 channels, but got 4 channels" in message


class Particular(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 5:
            raise KeyError("five")
        return super().forward(x)


def test_an_error_of_the_users_own_is_told_too() -> None:
    assert "KeyError: 'five'" in refuse(Particular(conv_bn(3, 8), head(8)), torch.randn(2, 3, 8, 8))


def test_a_missing_argument() -> None:
    assert "TypeError" in refuse(network(CASES["two inputs, dict output"]), torch.randn(2, 3, 8, 8))


def test_an_example_on_another_device() -> None:
    message = refuse(plain(), torch.randn(2, 3, 8, 8, device="meta"))
    assert message == "the example input is on meta and the network on cpu; move one to the other"


def test_a_network_without_weights() -> None:
    assert "meta" in refuse(plain().to("meta"), torch.randn(2, 3, 8, 8, device="meta"))


class Noisy(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


def test_a_network_that_is_not_deterministic() -> None:
    assert "deterministic" in refuse(Noisy(conv_bn(3, 8), head(8)).eval(), torch.randn(2, 3, 8, 8))


class Clipped(nn.Sequential):
    """A forward that changes its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.parameters():
            parameter.data.clamp_(-0.01, 0.01)
        return super().forward(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_stays_as_it_was(dtype: torch.dtype) -> None:
    model = Clipped(conv_bn(3, 8), head(8)).eval().to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    search_space(model, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Endless(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


def test_outputs_that_are_not_finite() -> None:
    assert "not finite" in refuse(Endless(conv_bn(3, 8), head(8)), torch.randn(2, 3, 8, 8))


class Opaque(nn.Sequential):
    def forward(self, x: Tensor) -> object:
        return super().forward(x).tolist()


def test_outputs_that_are_no_tensors() -> None:
    assert "returns no tensor but list" in refuse(Opaque(conv_bn(3, 8), head(8)), torch.randn(2, 3, 8, 8))


class Uncopiable(nn.Sequential):
    def __deepcopy__(self, memo: dict) -> nn.Module:
        raise TypeError("there is only one of me")


def test_a_network_that_cannot_be_copied() -> None:
    message = refuse(Uncopiable(conv_bn(3, 8), head(8)), torch.randn(2, 3, 8, 8))
    assert "TypeError: there is only one of me" in message


def test_nothing_that_may_go() -> None:
    message = refuse(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(2, 3, 2, 2))
    assert message == "the network has no part that may go (1: it is an output of the network)"
    assert "no convolution" in refuse(nn.ReLU(), torch.randn(2, 3))
    with pytest.raises(
        ConfigError, match=r"^search_space: must have at least one of feature_maps, kernels and strides true"
    ):
        search_space(plain(), torch.randn(2, 3, 8, 8), feature_maps=False)


def test_the_options_are_those_of_the_config_s_section() -> None:
    parameters = list(inspect.signature(search_space).parameters.values())[2:]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    defaults = {name: field.default for name, field in SpaceConfig.model_fields.items()}
    assert {parameter.name: parameter.default for parameter in parameters} == defaults


def test_a_pattern_that_names_no_layer() -> None:
    message = refuse(plain(), torch.randn(2, 3, 8, 8), keep=("layer1.*",))
    assert "layer1.*" in message
    assert "0.0" in message


def wrapped(inner: nn.Module) -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), inner, head(8)).eval()


@pytest.mark.parametrize("make", [lambda model, x: torch.jit.trace(model, x), lambda model, x: torch.jit.script(model)])
def test_torchscript_is_refused(make: Callable[[nn.Module, Tensor], nn.Module]) -> None:
    model, images = plain(), torch.randn(2, 3, 8, 8)
    told = (
        "is a TorchScript module, which cannot be followed or changed; give the module that it was scripted or traced"
    )
    assert refuse(make(model, images), images).startswith(f"the network {told}")
    inner = make(conv_bn(8, 8).eval(), torch.randn(2, 8, 8, 8))
    assert refuse(wrapped(inner), images).startswith(f"1 {told}")
    space = search_space(model, images)
    for use in (mask, compact):
        with pytest.raises(SearchSpaceError, match="is a TorchScript module"):
            use(make(model, images), space, space.full())
    with pytest.raises(SearchSpaceError, match="is a TorchScript module"):
        lower(make(model, images), space, space.full(), images)


def test_layers_without_shapes_are_refused() -> None:
    told = "0.weight is not initialised yet, because its layer is lazy; run the network once on an example first"
    model, images = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.LazyConv2d(4, 3)).eval(), torch.randn(1, 3, 8, 8)
    assert refuse(model, images) == told
    assert refuse(nn.Sequential(nn.LazyBatchNorm2d(), nn.Conv2d(3, 4, 3)).eval(), images) == told
    model(images)  # what the message says
    assert [group.layers for group in search_space(model, images).groups] == [("0",)]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return search_space(plain(), example(CASES["plain"]))


def wrong_genomes(space: SearchSpace) -> dict[str, np.ndarray]:
    high, empty = space.full(), space.full()
    high[3], empty[:8] = 2, 0
    return {
        "20 genes, not shape": np.ones(21, dtype=np.uint8),
        "gene 3 must be below its cardinality 2, not 2": high,
        "group 0.0 must keep at least 1": empty,
        "a vector of uint8, not of float64": np.ones(20),
    }


@pytest.mark.parametrize("place", range(4))
def test_a_genome_of_another_space(space: SearchSpace, place: int) -> None:
    sentence, genome = list(wrong_genomes(space).items())[place]
    for use in (
        lambda: space.check(genome),
        lambda: space.key(genome),
        lambda: cost(space, genome),
        lambda: mask(plain(), space, genome),
        lambda: compact(plain(), space, genome),
    ):
        with pytest.raises(SearchSpaceError) as caught:
            use()
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_negative_gene(space: SearchSpace) -> None:
    genome = space.full().astype(np.int64)
    genome[0] = -1
    with pytest.raises(SearchSpaceError, match="gene 0"):
        space.check(genome)


@pytest.mark.parametrize("other", ["bias without norm", "residual"])
def test_a_network_of_another_space(space: SearchSpace, other: str) -> None:
    for use in (mask, compact):
        with pytest.raises(SearchSpaceError, match="of another network"):
            use(network(CASES[other]), space, space.full())


def test_a_network_of_other_widths(space: SearchSpace) -> None:
    wider = nn.Sequential(conv_bn(3, 9), nn.MaxPool2d(2), conv_bn(9, 12), head(12))
    with pytest.raises(SearchSpaceError, match=r"0\.0\.weight has shape \(9, 3, 3, 3\)"):
        mask(wider, space, space.full())


def test_a_share_out_of_range(space: SearchSpace) -> None:
    with pytest.raises(SearchSpaceError, match="between 0 and 1"):
        space.random(np.random.default_rng(0), keep=1.5)


def test_plain_data_that_is_no_space(space: SearchSpace) -> None:
    data = space.to_dict()
    for broken in (
        {},
        data | {"groups": [{"name": "x"}]},
        data | {"axes": "abc"},
        {key: value for key, value in data.items() if key != "layers"},
    ):
        with pytest.raises(SearchSpaceError, match="no search space"):
            SearchSpace.from_dict(broken)
