"""What survivors are retrained from: each start does what it says, weight for weight."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.config.schema import RetrainConfig, TrainConfig
from evoprune.criteria.importance import layer_weights
from evoprune.criteria.weight_ranking import weight_masks
from evoprune.data.splits import Split
from evoprune.discovery.discover import search_space
from evoprune.errors import ConfigError, NetworkError
from evoprune.networks.initialisation import initialise
from evoprune.networks.zoo import build_network
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.space.plan import Genome
from evoprune.space.tensors import cut_masks
from evoprune.surgery.weight_masks import with_masked_weights
from evoprune.training import recipe
from evoprune.training.fit import FitState, fit
from evoprune.workers.retraining import Retrainer, Retraining
from evoprune.workers.workers import SerialPool
from tests import tiny_runs
from tests.scoring.problems import CPU, digits

TRAIN = TrainConfig(epochs=3, batch_size=50)


@pytest.fixture(scope="module")
def few() -> Split:
    split = digits().train
    return dataclasses.replace(split, images=split.images.select(torch.arange(200)), targets=split.targets[:200])


@pytest.fixture(scope="module")
def history(few: Split) -> list[dict[str, Tensor]]:
    """The baseline's weights: initial ones, and after each of its three epochs."""
    model = build_network("4C3-MP4-8FC-10", (1, 28, 28), 10, torch.Generator().manual_seed(0))
    states = [FitState.before(model).weights]
    fit(model, few, TRAIN, 1, CPU, on_epoch=lambda report, state: states.append(state.weights))
    return states


@pytest.fixture(scope="module")
def problem(history: list[dict[str, Tensor]]) -> Problem:
    model = build_network("4C3-MP4-8FC-10", (1, 28, 28), 10, torch.Generator())
    model.load_state_dict(history[-1])
    space = search_space(model.eval(), torch.zeros(1, 1, 28, 28), kernels=True, strides=True)
    data = digits()
    images, labels = data.validation.tensors()
    calibration, _ = data.calibration.tensors()
    return make_problem(model, space, calibration, images, labels, tolerance=1, compensate=True, device=CPU)


@pytest.fixture(scope="module")
def genome(problem: Problem) -> Genome:
    return problem.space.random(np.random.default_rng(0), keep=0.5)


def retraining(few: Split, start: Any, epochs: int = 2, rewound: dict[str, Tensor] | None = None) -> Retraining:
    config = RetrainConfig(start=start, epochs=epochs, learning_rate=0.01, compensation="search")
    return Retraining(config, few, (), 5, TRAIN, rewound)


def cut(problem: Problem, genome: Genome, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of the whole network's weights that stay, with zeros where masks are."""
    whole = build_network("4C3-MP4-8FC-10", (1, 28, 28), 10, torch.Generator())
    whole.load_state_dict(weights)
    return ep.compact(whole, problem.space, genome).state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_kept_weights_are_those_that_the_search_scored(problem: Problem, genome: Genome, few: Split) -> None:
    start = Retrainer(problem, retraining(few, "keep"), CPU).start(genome)
    assert start.epoch == 0
    assert same(start.weights, Scorer(problem, CPU).prepare(genome).state_dict())
    assert not same(start.weights, cut(problem, genome, problem.model.state_dict()))


def test_rewound_weights_are_the_baselines_of_that_epoch(
    problem: Problem, genome: Genome, few: Split, history: list[dict[str, Tensor]]
) -> None:
    start = Retrainer(problem, retraining(few, "rewind_weights", 2, history[1]), CPU).start(genome)
    assert start.epoch == 1
    assert same(start.weights, cut(problem, genome, history[1]))


def test_a_rewound_learning_rate_starts_from_the_trained_weights(
    problem: Problem, genome: Genome, few: Split, history: list[dict[str, Tensor]]
) -> None:
    start = Retrainer(problem, retraining(few, "rewind_learning_rate", 1), CPU).start(genome)
    assert start.epoch == 2
    assert same(start.weights, cut(problem, genome, history[3]))


def test_the_teacher_is_the_problems_network_unless_one_is_given(
    problem: Problem, genome: Genome, few: Split, history: list[dict[str, Tensor]]
) -> None:
    """With the teacher's outputs as the only target, equal teachers give equal weights and others do not."""
    other = build_network("4C3-MP4-8FC-10", (1, 28, 28), 10, torch.Generator())
    other.load_state_dict(history[0])
    settings = retraining(few, "keep", 1)
    settings = dataclasses.replace(settings, config=settings.config.model_copy(update={"distillation": 1.0}))
    learnt = []
    for teacher in (None, problem.model, other):
        retrainer = Retrainer(problem, dataclasses.replace(settings, teacher=teacher), CPU)
        learnt.append(retrainer.epoch(genome, retrainer.start(genome))[1].weights)
    assert same(learnt[0], learnt[1])
    assert not same(learnt[0], learnt[2])


def test_fresh_weights_are_of_the_layers_that_are_left(problem: Problem, genome: Genome, few: Split) -> None:
    """As `nn.Linear` of that width draws them: the bound 1 / sqrt(inputs) is that of the inputs that are left."""
    settings = retraining(few, "anew")
    start = Retrainer(problem, settings, CPU).start(genome)
    assert start.epoch == 0
    trained = cut(problem, genome, problem.model.state_dict())
    assert start.weights.keys() == trained.keys()
    hidden = start.weights["fc1.weight"]
    assert hidden.shape == trained["fc1.weight"].shape
    assert hidden.shape[1] < problem.model.get_parameter("fc1.weight").shape[1]
    bound = hidden.shape[1] ** -0.5
    assert 0.9 * bound < float(hidden.abs().max()) <= bound
    assert (start.weights["norm1.running_mean"] == 0).all()
    masks = cut_masks(problem.space, problem.space.check(genome))
    assert masks
    assert all(not start.weights[name][~mask].any() and start.weights[name][mask].all() for name, mask in masks.items())
    assert same(start.weights, Retrainer(problem, settings, CPU).start(genome).weights)
    other = dataclasses.replace(settings, seed=6)
    assert not same(start.weights, Retrainer(problem, other, CPU).start(genome).weights)


@pytest.mark.parametrize(
    ("start", "epochs", "steps"),
    [("keep", 2, range(8)), ("anew", 2, range(8)), ("rewind_weights", 2, range(4, 12)),
     ("rewind_learning_rate", 1, range(8, 12))],
)  # fmt: skip
def test_the_schedule_that_each_start_goes_through(
    start: Any,
    epochs: int,
    steps: range,
    problem: Problem,
    genome: Genome,
    few: Split,
    history: list[dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 200 images in batches of 50: the last steps of the baseline's 12, at its rate; or 8 at retraining's own."""
    asked = []

    def noted(step: int, of: int, highest: float) -> float:
        asked.append((step, of, highest))
        return 0.001

    monkeypatch.setattr(recipe, "learning_rate_at", noted)
    settings = retraining(few, start, epochs, history[3 - epochs])
    own = dataclasses.replace(settings, config=settings.config.model_copy(update={"batch_size": 50}))
    [state] = SerialPool(CPU, 1).workers(problem).retrain([genome], [None], own, lambda *_: None)
    rewound = start.startswith("rewind")
    assert asked == [(step, 12 if rewound else 8, 0.05 if rewound else 0.01) for step in steps]
    assert state.epoch == (3 if rewound else 2)


def test_a_user_module_that_cannot_be_initialised() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(3))

    with pytest.raises(NetworkError, match=r"anew cannot initialise 1, because Scaled has no reset_parameters\(\);"):
        initialise(nn.Sequential(nn.Linear(2, 2), Scaled()), 0)


def test_zeros_of_pruned_single_weights_stay(problem: Problem, few: Split) -> None:
    """Half of every layer's weights are gone at the start and after two epochs; biases and the others move."""
    whole = problem.space.full()
    scores = layer_weights(problem.model, problem.space)
    masks = weight_masks({name: weight.abs() for name, weight in scores.items()}, 0.5, "local")
    before = FitState.before(with_masked_weights(problem.model, masks))
    pruning = dataclasses.replace(retraining(few, "keep"), zeros_stay=True)
    [after] = SerialPool(CPU, 1).workers(problem).retrain([whole], [before], pruning, lambda *_: None)
    [free] = SerialPool(CPU, 1).workers(problem).retrain([whole], [before], retraining(few, "keep"), lambda *_: None)
    assert after.epoch == 2
    for name, mask in masks.items():
        assert torch.equal(after.weights[name] != 0, mask)
        assert (free.weights[name][~mask] != 0).any()
        assert not torch.equal(after.weights[name], before.weights[name])


# --- whole runs


def test_a_run_rewinds_to_the_weights_that_its_baseline_had(tmp_path: Path) -> None:
    """Two epochs, of which one is trained again; then resumed with a start whose weights were not kept."""
    settings: dict[str, object] = {
        **{"train.epochs": 2, "retrain.epochs": 1, "retrain.start": "rewind_weights", "retrain.survivors": 1},
        **{"search.generations": 1, "search.tolerance": 0.3},
    }
    run = tiny_runs.run(tmp_path / "run", settings)
    folder = RunFolder(run.root)
    kept, metadata = files.read_tensors(folder.rewind)
    assert metadata["epoch"] == "1"
    assert not same(kept, files.read_tensors(folder.baseline)[0])
    assert len(run.survivors) == 1
    with pytest.raises(ConfigError, match=r"after epoch 0 of its training, and .* kept those of 1; start another run"):
        ep.resume(run.root, overrides={"retrain.epochs": 2})
    again = ep.resume(run.root, overrides={"retrain.epochs": 1})
    assert again.survivors.mcr_retrained.tolist() == run.survivors.mcr_retrained.tolist()


def test_initial_weights_are_kept_for_rewinding_to_the_start(tmp_path: Path) -> None:
    settings = {"retrain.start": "rewind_weights", "search.generations": 1, "search.tolerance": 0.9}
    run = tiny_runs.run(tmp_path / "run", settings)
    kept, metadata = files.read_tensors(RunFolder(run.root).rewind)
    assert metadata["epoch"] == "0"
    assert not kept["norm1.running_mean"].any()
