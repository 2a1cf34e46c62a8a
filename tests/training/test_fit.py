import copy
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import evoprune as ep
from evoprune.config.schema import DataConfig, TrainConfig
from evoprune.data.augmentation import random_crop, random_flip
from evoprune.data.images import ImageArray
from evoprune.data.load import Data, Split, load_data
from evoprune.errors import TrainingError
from evoprune.networks.zoo import build_network
from evoprune.space.tensors import cut_masks, kernel_mask
from evoprune.training.evaluation import count_errors
from evoprune.training.fit import EpochReport, FitState, fit
from evoprune.training.recipe import learning_rate_at

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DataConfig(dataset="mnist5k", validation=500, calibration=100), seed=0)


@pytest.fixture
def few() -> Split:
    """65 images of 8x8 in 3 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (65, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(ImageArray(pixels), torch.arange(65) % 3, torch.tensor([0.5]), torch.tensor([0.3]))


def tiny_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(144, 3),
        )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_an_epoch_on_real_digits_lowers_the_errors(digits: Data) -> None:
    model = build_network("6C5-MP4-10", digits.image_shape, digits.classes, torch.Generator().manual_seed(0))
    before = count_errors(model, digits.validation, CPU)
    fit(model, digits.train, TrainConfig(epochs=1), 0, CPU)
    after = count_errors(model, digits.validation, CPU)
    assert before > 350  # of 500: near chance
    assert after < 100
    assert not model.training


class Strided(nn.Module):
    """Every second row and column."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps[:, :, ::2, ::2]


def test_a_narrow_strided_shortcut_learns_as_its_definition_says(few: Split) -> None:
    """oneDNN's own gradient of it, in channels-last, is wrong or ends the process."""
    written = [
        nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), *shortcut, nn.Flatten(), nn.Linear(80, 3))
        for shortcut in ([nn.Conv2d(3, 5, 1, stride=2)], [nn.Conv2d(3, 5, 1), Strided()])
    ]
    written[1].load_state_dict(dict(zip(written[1].state_dict(), written[0].state_dict().values(), strict=True)))
    for model in written:
        fit(model, few, TrainConfig(epochs=2, batch_size=16), 0, CPU)
    for one, other in zip(*(model.parameters() for model in written), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("augment", [(), ("crop", "flip")])
def test_resuming_is_exact(few: Split, tmp_path: Path, augment: tuple[str, ...]) -> None:
    train = TrainConfig(epochs=3, batch_size=16)
    whole, resumed = tiny_network(), tiny_network()
    states: list[FitState] = []
    fit(whole, few, train, 7, CPU, augment=augment, on_epoch=lambda report, state: states.append(state))
    save_file(states[0].tensors, tmp_path / "state.safetensors")
    nn.init.zeros_(resumed[0].weight)  # type: ignore[index]
    fit(
        resumed,
        few,
        train,
        7,
        CPU,
        augment=augment,
        state=FitState(1, load_file(tmp_path / "state.safetensors")),
    )
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())
    assert [state.epoch for state in states] == [1, 2, 3]


def test_weights_depend_on_the_seed_alone(few: Split) -> None:
    results = []
    for seed, global_seed in ((1, 0), (1, 5), (2, 0)):
        model = tiny_network()
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            fit(model, few, TrainConfig(epochs=1), seed, CPU)
            assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model)["0.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_masked_weights_stay_at_zero_and_epochs_are_reported(few: Split) -> None:
    model = tiny_network()
    masked = model.get_parameter("0.weight")
    reports: list[EpochReport] = []
    stays = torch.ones_like(masked, dtype=torch.bool)
    stays[0] = False

    fit(
        model,
        few,
        TrainConfig(epochs=2),
        0,
        CPU,
        masks={"0.weight": stays},
        on_epoch=lambda report, _: reports.append(report),
    )
    assert not masked[0].any()
    assert masked[1].any()
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 2), (2, 2)]
    assert all(math.isfinite(report.loss) for report in reports)


@pytest.mark.parametrize("compacted", [False, True], ids=["masked", "compacted"])
def test_masked_weights_stay_exactly_zero_with_momentum_and_decay(few: Split, compacted: bool) -> None:
    """Ten steps (two epochs of five), stopped and resumed in between; their gradients and momenta are zero as well."""
    model = tiny_network()
    images = few.tensors()[0][:1]
    space = ep.search_space(model.eval(), images, strides=True, stride_sharing="kernel")
    genome = space.full()
    genome[space.maps :] = [0, 3, 1, 5]  # dense, a column, {0, 2, 4, 6, 8}, {1, 3, 5, 7} or another of the table
    genome[0] = 0
    masks = {name: kernel_mask(space, space.check(genome), name) for name in space.check(genome).kernels}
    pruned = ep.mask(model, space, genome)
    if compacted:
        masks, pruned = cut_masks(space, space.check(genome)), ep.compact(model, space, genome)
    assert masks.keys() == {"0.weight"}
    goes = ~masks["0.weight"]
    assert goes.any()
    if not compacted:  # rows of maps that go are no weights of the mask alone
        assert goes[0].all()
    nn.init.normal_(pruned.get_parameter("0.weight"), generator=torch.Generator().manual_seed(0))
    train = TrainConfig(epochs=2, batch_size=13, momentum=0.9, weight_decay=0.1)
    whole, resumed = copy.deepcopy(pruned), copy.deepcopy(pruned)
    states: list[FitState] = []
    fit(whole, few, train, 0, CPU, masks=masks, on_epoch=lambda _, state: states.append(state))
    fit(resumed, few, train, 0, CPU, masks=masks, state=states[0], on_epoch=lambda _, state: states.append(state))
    for state in states:
        assert not state.weights["0.weight"][goes].any()
        assert not state.tensors["momentum.0.weight"][goes].any()
        assert state.weights["0.weight"][~goes].all()
        assert state.tensors["momentum.0.weight"][~goes].any()
    assert [state.epoch for state in states] == [1, 2, 2]
    for network in (whole, resumed):
        weight = network.get_parameter("0.weight")
        assert not weight[goes].any()
        assert weight.grad is not None
        assert not weight.grad[goes].any()
        assert weight.grad[~goes].any()
    assert all(torch.equal(tensor, states[2].tensors[name]) for name, tensor in states[1].tensors.items())
    handles = len(resumed.get_parameter("0.weight")._backward_hooks or {})
    assert handles == 0  # what held the weights is gone with the training


def test_a_loss_that_is_not_finite_names_step_and_learning_rate(few: Split) -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+ with learning rate .* below 1e\+30"):
        fit(tiny_network(), few, TrainConfig.model_construct(epochs=5, learning_rate=1e30), 0, CPU)


def test_weights_that_are_not_finite_after_the_last_step_are_noticed(few: Split) -> None:
    """There is no next step whose loss would say so."""
    once = TrainConfig.model_construct(epochs=1, batch_size=65, learning_rate=3e38, weight_decay=1e6)
    with pytest.raises(TrainingError, match=r"weights are not finite after step 1 with learning rate 3e\+38"):
        fit(tiny_network(), few, once, 0, CPU)


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [learning_rate_at(step, 100, 0.5) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))
    assert 0 < rates[-1] < 1e-3
    assert learning_rate_at(0, 1, 0.5) == 0.5


def test_crop_shifts_by_at_most_the_padding() -> None:
    images = torch.zeros(200, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    cropped = random_crop(images, torch.Generator().manual_seed(0))
    where = cropped[:, 0].nonzero()[:, 1:].numpy() - 14
    assert cropped.shape == images.shape
    assert len(where) == 200
    assert set(np.unique(where)) == {-2, -1, 0, 1, 2}


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(4.0).expand(400, 1, 1, 4)
    flipped = random_flip(images, torch.Generator().manual_seed(0))[:, 0, 0]
    mirrored = (flipped == torch.tensor([3.0, 2, 1, 0])).all(dim=1)
    assert 160 < int(mirrored.sum()) < 240
    assert ((flipped == torch.arange(4.0)).all(dim=1) | mirrored).all()
