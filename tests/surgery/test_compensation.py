"""What removed inputs carried is taken over: against sums by hand, numpy's least squares, and the layers themselves."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import evoprune as ep
from evoprune.surgery import compensation, layer_statistics
from evoprune.surgery.compensation import compensated, solve
from evoprune.surgery.layer_statistics import LayerStatistics, gram_statistics, uncompensated, unfolded


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def redrawn(model: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """In float64, eval mode, every parameter drawn from `seed`, batch-norm statistics moved off 0 and 1."""
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator(seed), dtype=torch.float64)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return model


def after_compensation(
    model: nn.Module, space: ep.SearchSpace, genome: np.ndarray, images: Tensor
) -> dict[str, Tensor]:
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return compensated(tensors, space, space.check(genome), gram_statistics(model, space, images))


# --- by hand


def two_units(bias: bool = True) -> nn.Sequential:
    """The hidden units are the two inputs as they are; out = 2 a + 3 b + 0.5."""
    hidden, out = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias)
    with torch.no_grad():
        hidden.weight.copy_(torch.eye(2))
        out.weight.copy_(torch.tensor([[2.0, 3.0]]))
        if bias:
            out.bias.fill_(0.5)
    return nn.Sequential(hidden, out).double()


# Mean of a: 2, of b: 3. Centred, a is -1, 0, 1 and b is -1, -1, 2: var(a) = 2/3, cov(a, b) = (1 + 0 + 2) / 3 = 1,
# so that the best guess of b from a is 3 + 1.5 (a - 2) = 1.5 a, and of out: 2 a + 3 (1.5 a) + 0.5 = 6.5 a + 0.5.
TWO_INPUTS = torch.tensor([[1.0, 2.0], [2.0, 2.0], [3.0, 5.0]], dtype=torch.float64)


def test_two_units_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation, "RIDGE", 0.0)
    model = two_units()
    space = ep.search_space(model, torch.zeros(1, 2, dtype=torch.float64))
    new = after_compensation(model, space, np.array([1, 0], np.uint8), TWO_INPUTS)
    assert new["1.weight"].tolist() == [pytest.approx([6.5, 0.0])]
    assert new["1.bias"].tolist() == pytest.approx([0.5])


def test_the_bias_takes_the_mean_where_nothing_is_correlated() -> None:
    """a and b are uncorrelated here, so that all there is to take over of b is its mean, 3: 0.5 + 3 * 3 = 9.5."""
    inputs = torch.tensor([[1.0, 2.0], [1.0, 4.0], [3.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    model = two_units()
    space = ep.search_space(model, torch.zeros(1, 2, dtype=torch.float64))
    new = after_compensation(model, space, np.array([1, 0], np.uint8), inputs)
    assert new["1.weight"].tolist() == [pytest.approx([2.0, 0.0])]
    assert new["1.bias"].tolist() == pytest.approx([9.5])


def test_the_ridge_by_hand() -> None:
    """lambda = 1e-4 * var(a) with one column left: the share of b that is taken over is cov / (var (1 + 1e-4))."""
    model = two_units()
    space = ep.search_space(model, torch.zeros(1, 2, dtype=torch.float64))
    new = after_compensation(model, space, np.array([1, 0], np.uint8), TWO_INPUTS)
    assert compensation.RIDGE == 1e-4
    assert new["1.weight"][0, 0].item() == pytest.approx(2 + 3 * 1.5 / 1.0001, rel=1e-12)


def test_without_bias_and_batch_norm_the_weights_carry_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not centred: sum(a a) = 14 and sum(a b) = 2 + 4 + 15 = 21, so that b is guessed as 21/14 a: 2 + 3 * 1.5."""
    monkeypatch.setattr(compensation, "RIDGE", 0.0)
    model = two_units(bias=False)
    space = ep.search_space(model, torch.zeros(1, 2, dtype=torch.float64))
    new = after_compensation(model, space, np.array([1, 0], np.uint8), TWO_INPUTS)
    assert new.keys() == {"1.weight"}
    assert new["1.weight"].tolist() == [pytest.approx([6.5, 0.0])]


# --- against numpy


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "3x3 padded": {"kernel_size": 3, "padding": 1},
    "5x3": {"kernel_size": (5, 3)},
    "stride": {"kernel_size": 3, "stride": (2, 3), "padding": (1, 0)},
    "dilation": {"kernel_size": 3, "dilation": (2, 1), "padding": 2},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "replicate": {"kernel_size": (3, 5), "padding": (1, 2), "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular"},
    "same": {"kernel_size": 4, "padding": "same", "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
}


def design_matrix(conv: nn.Module, inputs: Tensor) -> np.ndarray:
    """(groups, examples, columns) by PyTorch's own unfold."""
    assert isinstance(conv, nn.Conv2d)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    if conv.padding == "same":
        total = [spread * (size - 1) for size, spread in zip(conv.kernel_size, conv.dilation, strict=True)]
        (top, bottom), (left, right) = ((all_ // 2, all_ - all_ // 2) for all_ in total)
    else:
        assert isinstance(conv.padding, tuple)
        top = bottom = conv.padding[0]
        left = right = conv.padding[1]
    padded = F.pad(inputs, (left, right, top, bottom), mode=mode)
    columns = F.unfold(padded, conv.kernel_size, conv.dilation, 0, conv.stride)  # (batch, columns, places)
    batch, width, places = columns.shape
    grouped = columns.reshape(batch, conv.groups, width // conv.groups, places)
    return grouped.permute(1, 0, 3, 2).reshape(conv.groups, batch * places, -1).numpy()


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolutions_equal_least_squares(options: dict[str, Any]) -> None:
    """Ridge included: lambda is as good as examples of sqrt(n lambda) whose wanted change is 0."""
    model = redrawn(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, **options)))
    conv = model[2]
    assert isinstance(conv, nn.Conv2d)
    images = torch.randn(5, 2, 9, 9, generator=generator(1), dtype=torch.float64)
    conv.padding_mode = "zeros"  # the plan is the same; discovery leaves circular padding alone
    space = ep.search_space(model, images[:1], keep=("2",))
    conv.padding_mode = options.get("padding_mode", "zeros")
    genome = space.random(np.random.default_rng(2), keep=0.5)
    new = after_compensation(model, space, genome, images)
    in_maps = conv.weight.shape[1]
    kept = space.phenotype(genome).kept["2.weight", 1]
    assert 0 < len(kept) < in_maps
    taps = conv.weight[0, 0].numel()
    stays = np.repeat(np.isin(np.arange(in_maps), kept), taps)
    with torch.no_grad():
        design = design_matrix(conv, model[:2](images))
    old = conv.weight.detach().reshape(conv.groups, -1, in_maps * taps).numpy()
    for group in range(conv.groups):
        columns = design[group] - design[group].mean(0)
        n, width = len(columns), int(stays.sum())
        ridge = np.sqrt(n * 1e-4 * columns[:, stays].var(0).mean()) * np.eye(width)
        wanted = columns[:, ~stays] @ old[group][:, ~stays].T
        change, *_ = np.linalg.lstsq(
            np.vstack([columns[:, stays], ridge]),
            np.vstack([wanted, np.zeros((width, wanted.shape[1]))]),
            rcond=None,
        )
        expected = np.zeros_like(old[group])
        expected[:, stays] = old[group][:, stays] + change.T
        found = new["2.weight"].reshape(conv.groups, -1, in_maps * taps)[group].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    with torch.no_grad():  # the bias leaves the mean of the output where it was
        before = model(images).mean((0, 2, 3))
        conv.weight.copy_(new["2.weight"])
        assert conv.bias is not None
        conv.bias.copy_(new["2.bias"])
        torch.testing.assert_close(model(images).mean((0, 2, 3)), before)


def test_inputs_of_a_grouped_convolution_go_slot_by_slot() -> None:
    """Maps of one place in every group go together, and every group is solved with statistics of its own."""
    model = redrawn(nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2)))
    images = torch.randn(3, 1, 8, 8, generator=generator(3), dtype=torch.float64)
    space = ep.search_space(model, images[:1], keep=("2",))
    statistics = gram_statistics(model, space, images)["2.weight"]
    assert space.phenotype(np.array([1, 0, 1], np.uint8)).kept["0.weight", 0].tolist() == [0, 2, 3, 5]
    assert statistics.gram is not None
    assert statistics.gram.shape == (2, 27, 27)
    assert statistics.mean.shape == (2, 27)
    with torch.no_grad():
        columns = design_matrix(model[2], model[:2](images))
    for group in range(2):
        expected = np.cov(columns[group].T, ddof=0)
        np.testing.assert_allclose(statistics.gram[group].numpy(), expected, rtol=1e-9, atol=1e-9)


SHARINGS = ("input_map", "layer", "kernel")


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("options", [CONVOLUTIONS["3x3 padded"], CONVOLUTIONS["5x3"], CONVOLUTIONS["grouped"]])
def test_masked_kernels_and_taps_equal_least_squares_row_by_row(options: dict[str, Any], sharing: Any) -> None:
    """Each output map is solved on the columns that it keeps: numpy's lstsq, ridge included, one row at a time."""
    model = redrawn(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, **options)))
    conv = model[2]
    assert isinstance(conv, nn.Conv2d)
    images = torch.randn(5, 2, 9, 9, generator=generator(1), dtype=torch.float64)
    space = ep.search_space(model, images[:1], kernels=True, strides=True, stride_sharing=sharing)
    genome = space.random(np.random.default_rng(6), keep=0.6)
    new = after_compensation(model, space, genome, images)
    stays = space.check(genome).kernels["2.weight"].reshape(6, -1)
    with torch.no_grad():
        design = design_matrix(conv, model[:2](images))
    old, found = conv.weight.detach().reshape(6, -1).numpy(), new["2.weight"].reshape(6, -1).numpy()
    assert conv.bias is not None
    for row in range(6):
        columns = design[row * conv.groups // 6]
        mean, centred = columns.mean(0), columns - columns.mean(0)
        keeps = stays[row]
        if not keeps.any():
            continue
        width = int(keeps.sum())
        ridge = np.sqrt(len(columns) * 1e-4 * centred[:, keeps].var(0).mean()) * np.eye(width)
        wanted = np.concatenate([centred[:, ~keeps] @ old[row, ~keeps], np.zeros(width)])
        change, *_ = np.linalg.lstsq(np.vstack([centred[:, keeps], ridge]), wanted, rcond=None)
        expected = np.zeros_like(old[row])
        expected[keeps] = old[row, keeps] + change
        np.testing.assert_allclose(found[row], expected, rtol=1e-7, atol=1e-7)
        assert new["2.bias"][row].item() == pytest.approx(
            conv.bias[row].item() + (old[row] - expected) @ mean, rel=1e-6
        )
    assert len({tuple(row) for row in stays.tolist()}) > 1


def test_a_layer_that_loses_all_kernels_leaves_its_mean() -> None:
    """With maps kept whole, a map may lose all kernels: its bias becomes the mean of what it was."""
    model = redrawn(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)))
    images = torch.randn(5, 1, 9, 9, generator=generator(1), dtype=torch.float64)
    space = ep.search_space(model, images[:1], feature_maps=False, kernels=True)
    genome = space.full()
    genome[:3] = 0
    new = after_compensation(model, space, genome, images)
    assert not new["2.weight"][0].any()
    with torch.no_grad():
        assert new["2.bias"][0].item() == pytest.approx(model(images)[:, 0].mean().item())


# --- unfolding


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A convolution of 1 to 3 dimensions and an input that it can read."""
    dims = draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=dims, max_size=dims)))

    kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 2), each(0, 2)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    groups = draw(st.integers(1, 3))
    make: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    in_maps, out_maps = (groups * draw(st.integers(1, 2)) for _ in range(2))
    conv = make(in_maps, out_maps, kernel, stride, padding, dilation, groups, bias=False, padding_mode=mode).double()
    pixels = tuple(draw(st.integers(5, 7)) for _ in range(dims))
    return conv, torch.randn(2, in_maps, *pixels, generator=generator(), dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(case=convolutions())
def test_unfolded_inputs_times_the_flat_weight_are_the_outputs(case: tuple[Any, Tensor]) -> None:
    conv, inputs = case
    with torch.no_grad():
        columns = unfolded(conv, inputs)
        by_group = columns.reshape(conv.groups, -1, columns.shape[1])
        found = conv.weight.reshape(conv.groups, -1, by_group.shape[1]) @ by_group  # (groups, maps, examples)
        expected = conv(inputs).transpose(0, 1).reshape(conv.out_channels, -1)
    torch.testing.assert_close(found.reshape(expected.shape), expected)


def test_unfolded_inputs_of_a_linear_layer_are_its_inputs() -> None:
    linear, inputs = nn.Linear(3, 2, bias=False), torch.randn(4, 5, 3, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close((linear.weight @ unfolded(linear, inputs)).T, linear(inputs).reshape(-1, 2))


# --- properties


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    columns=st.integers(2, 8),
    rank=st.integers(1, 8),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
    data=st.data(),
)
def test_never_worse_than_plain_cutting(seed: int, columns: int, rank: int, spread: float, data: st.DataObject) -> None:
    """Over inputs of any rank and of scales that differ by up to e**12, mean included, for each output."""
    rng = np.random.default_rng(seed)
    scales = np.exp(spread * rng.uniform(-1, 1, columns))
    inputs = (rng.normal(size=(30, rank)) @ rng.normal(size=(rank, columns)) + rng.normal(size=columns)) * scales
    stays = np.array(sorted(data.draw(st.sets(st.integers(0, columns - 1), min_size=1))))
    weight = rng.normal(size=(3, columns))
    mean = inputs.mean(0)
    gram = np.cov(inputs.T, ddof=0).reshape(columns, columns)
    statistics = LayerStatistics(torch.from_numpy(gram)[None], None, torch.from_numpy(mean)[None], "bias")
    new, shift = solve(torch.from_numpy(weight), np.isin(np.arange(columns), stays)[None], np.arange(3), statistics)
    cut = np.where(np.isin(np.arange(columns), stays), weight, 0)
    outputs = inputs @ weight.T
    worst = ((inputs @ cut.T - outputs) ** 2).mean(0)
    error = ((inputs @ new.numpy().T + shift.numpy() - outputs) ** 2).mean(0)
    assert (error <= worst * (1 + 1e-9) + 1e-12 * (outputs**2).mean(0)).all()
    assert (new.numpy()[:, np.setdiff1d(np.arange(columns), stays)] == 0).all()


def test_a_dead_input_goes_without_any_change() -> None:
    """What is 0 on every image carries nothing: not even the ridge moves a weight."""
    gram = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])[None]
    statistics = LayerStatistics(gram, None, torch.zeros(1, 3), None)
    weight = torch.tensor([[0.3, -0.7, 5.0]])
    new, shift = solve(weight, np.array([[True, True, False]]), np.array([0]), statistics)
    assert new.tolist() == [[pytest.approx(0.3), pytest.approx(-0.7), 0.0]]
    assert shift.tolist() == [0.0]


def test_a_duplicate_map_is_made_up_for_perfectly() -> None:
    """Two identical feature maps: without one of them, the network's outputs are what they were."""
    model = redrawn(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)
        )
    )
    with torch.no_grad():
        for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
            tensor = model.state_dict()[name]
            tensor[3] = tensor[1]
    images = torch.randn(8, 1, 10, 10, generator=generator(4), dtype=torch.float64)
    space = ep.search_space(model, images[:1])
    genome = space.full()
    genome[3] = 0
    new = after_compensation(model, space, genome, images)
    with torch.no_grad():
        expected = model(images)
        cut = ep.compact(model, space, genome)(images)
        model.load_state_dict(model.state_dict() | new)
        found = ep.compact(model, space, genome)(images)
    scale = expected.abs().max()
    assert (cut - expected).abs().max() > 0.1 * scale
    assert (found - expected).abs().max() < 2e-3 * scale  # the ridge holds back a ten thousandth of the change


def test_rows_that_go_keep_their_weights_and_have_no_shift() -> None:
    gram = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
    statistics = LayerStatistics(gram, None, torch.ones(1, 2), "bias")
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    new, shift = solve(weight, np.array([[True, False]]), np.array([1]), statistics)
    assert new[0].tolist() == [1.0, 2.0]
    assert new[1].tolist() == [pytest.approx(5.0, rel=1e-3), 0.0]
    assert shift.tolist() == [0.0, pytest.approx(7.0 - 5.0, rel=1e-3)]


# --- edges


@pytest.mark.parametrize("inputs", [torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)])
def test_inputs_without_variance_stay_finite(inputs: Tensor) -> None:
    """Every Gram matrix is singular (all zero but for rounding)."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    space = ep.search_space(model, torch.randn(1, 1, 8, 8, generator=generator()))
    new = after_compensation(model, space, np.array([1, 0, 1, 0], np.uint8), inputs)
    assert all(tensor.isfinite().all() for tensor in new.values())


def test_statistics_that_are_not_finite_cut_and_nothing_else() -> None:
    statistics = LayerStatistics(torch.full((1, 2, 2), torch.nan), None, torch.zeros(1, 2), None)
    new, _ = solve(torch.tensor([[1.0, 2.0]]), np.array([[True, False]]), np.array([0]), statistics)
    assert new.tolist() == [[1.0, 0.0]]


def test_a_batch_norm_takes_the_mean_so_that_statistics_are_centred() -> None:
    model = redrawn(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)))
    images = torch.randn(4, 1, 5, 5, generator=generator(5), dtype=torch.float64)
    space = ep.search_space(model, images[:1])
    statistics = gram_statistics(model, space, images)["2.weight"]
    with torch.no_grad():
        maps = model[:2](images).transpose(0, 1).reshape(3, -1).numpy()
    assert statistics.gram is not None
    np.testing.assert_allclose(statistics.gram[0].numpy(), np.cov(maps, ddof=0), atol=1e-12)
    np.testing.assert_allclose(statistics.mean[0].numpy(), maps.mean(1), atol=1e-12)
    assert statistics.bias is None


def test_statistics_leave_no_trace_on_the_network() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    images = torch.randn(40, 1, 8, 8, generator=generator())
    space = ep.search_space(model.eval(), images[:1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gram_statistics(model, space, images)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_statistics_are_the_same_however_images_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = redrawn(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)))
    images = torch.randn(10, 1, 8, 8, generator=generator(), dtype=torch.float64)
    space = ep.search_space(model, images[:1])
    at_once = gram_statistics(model, space, images)["3.weight"]
    monkeypatch.setattr(layer_statistics, "BATCH_SIZE", 3)
    in_four = gram_statistics(model, space, images)["3.weight"]
    assert in_four.samples is not None
    assert in_four.samples.shape == (1, 10, 144)
    torch.testing.assert_close(in_four.samples, at_once.samples)
    torch.testing.assert_close(in_four.mean, at_once.mean)


def test_layers_that_cannot_be_compensated_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2), nn.Conv2d(2, 2, 3)).eval()
    images = torch.randn(2, 1, 8, 8, generator=generator())
    space = ep.search_space(model, images[:1])
    assert uncompensated(space, gram_statistics(model, space, images)) == ("2",)


# --- statistics as samples, within a bound, and on their way to workers


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), examples=st.integers(2, 12), keep=st.floats(0.1, 0.9))
def test_samples_and_their_gram_matrix_give_the_same_weights(seed: int, examples: int, keep: float) -> None:
    rng = np.random.default_rng(seed)
    columns = 30
    root = torch.from_numpy(rng.normal(size=(1, examples, columns)))
    mean = torch.from_numpy(rng.normal(size=(1, columns)))
    weight = torch.from_numpy(rng.normal(size=(4, columns)))
    stays = rng.random((1, columns)) < keep
    stays[0, 0] = True
    by_samples = solve(weight, stays, np.arange(4), LayerStatistics(None, root, mean, "bias"))
    by_gram = solve(weight, stays, np.arange(4), LayerStatistics(root.mT @ root, None, mean, "bias"))
    for one, other in zip(by_samples, by_gram, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_statistics_stay_within_their_bound_and_the_largest_are_left_out() -> None:
    """Columns 36, 54 and 6 * 64: Gram matrices of 5,184 and 11,664 bytes, and 10 rows of 384 floats."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Flatten(),
        nn.Linear(6 * 64, 2),
    ).eval()  # fmt: skip
    images = torch.randn(10, 1, 8, 8, generator=generator())
    space = ep.search_space(model, images[:1])
    sizes = {"1.weight": 36 * 36 * 4, "2.weight": 54 * 54 * 4, "4.weight": 10 * 384 * 4}
    everything = gram_statistics(model, space, images)
    assert {name: layer.bytes - layer.mean.nbytes for name, layer in everything.items()} == sizes
    bounds = {27_000: {"1.weight", "2.weight"}, 16_848: {"1.weight", "2.weight"}, 16_847: {"1.weight"}, 5_000: set()}
    for bound, fitting in bounds.items():
        assert set(gram_statistics(model, space, images, bound)) == fitting
    assert set(gram_statistics(model, space, images, sum(sizes.values()))) == set(sizes)
    assert uncompensated(space, gram_statistics(model, space, images, 16_848)) == ("4",)


def test_statistics_travel_as_arrays_that_can_be_shared() -> None:
    statistics = LayerStatistics(torch.eye(3)[None], None, torch.ones(1, 3), "bias")
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(statistics, protocol=5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) == (9 + 3) * 4
    assert len(data) < 1000
    back = pickle.loads(data, buffers=buffers)
    assert back.gram is not None
    assert back.gram.data_ptr() == np.frombuffer(buffers[0].raw(), np.float32).ctypes.data
    assert torch.equal(back.gram, torch.eye(3)[None])
    assert (back.samples, back.bias) == (None, "bias")
