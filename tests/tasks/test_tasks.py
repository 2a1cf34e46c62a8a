"""One suite over every built-in task and one from outside, and each task's figures by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import evoprune as ep
from evoprune.config.choices import TaskName
from evoprune.errors import ConfigError, DataError, PluginError
from evoprune.pipeline.own_answers import with_own_answers
from evoprune.scoring.execution import Execution
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.tasks.judging import divergences_of, errors_of, loss_of
from evoprune.tasks.tasks_by_name import (
    TASKS,
    Regression,
    Segmentation,
    described,
    make_task,
)
from evoprune.tasks.trees import Tree, map_tensors, select, tensors_in
from tests.shared_ray import SharedRay
from tests.tasks.cases import CASES, IMAGES, Case
from tests.tasks.own_task import Brightness, Failing, FailingLater, Negative, Shapeless, Undefined

CPU = torch.device("cpu")
SERIAL = ep.WorkersConfig(backend="serial")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def outputs_of(case: Case) -> Tree:
    with torch.no_grad():
        return case.made()(IMAGES)


def fitted(case: Case) -> tuple[ep.Task, Tree]:
    """The task as a run has it, and the targets of all images."""
    targets = case.task.answers(outputs_of(case)) if case.targets is None else case.targets
    targets = case.task.checked_targets(targets, "validation")
    return case.task.fitted(targets), targets


# --- the same for all tasks


def test_the_config_has_the_names_of_the_registry() -> None:
    assert set(TASKS.names) == set(TaskName.__args__)  # type: ignore[attr-defined]


def test_the_loss_falls_when_it_is_trained_on(case: Case) -> None:
    task, targets = fitted(case)
    network = case.made()
    if case.targets is None:
        with torch.no_grad():
            network.get_submodule("boxes").weight.mul_(2)  # type: ignore[operator]
    optimiser = torch.optim.Adam(network.parameters(), lr=0.005)
    losses = []
    for _ in range(150):
        loss = loss_of(task, network(IMAGES), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.9 * losses[0]


def test_the_summed_loss_is_that_of_all_examples(case: Case) -> None:
    task, targets = fitted(case)
    outputs = map_tensors(lambda tensor: tensor + 0.1, outputs_of(case))
    if case is not CASES["segmentation"]:  # the mean over counted pixels weighs images alike only if all have as many
        parts = [
            task.summed_loss(*(select(tree, slice(a, a + 16)) for tree in (outputs, targets))) for a in (0, 16, 32)
        ]
        assert float(sum(parts)) == pytest.approx(float(task.summed_loss(outputs, targets)), rel=1e-4)
    assert float(task.summed_loss(outputs, targets)) == pytest.approx(48 * float(task.loss(outputs, targets)), rel=1e-4)


def test_errors_are_shares_and_outputs_that_are_not_finite_are_wrong(case: Case) -> None:
    task, targets = fitted(case)
    errors = errors_of(task, outputs_of(case), targets).double()
    assert errors.shape == (48,)
    assert ((errors >= 0) & (errors <= 1)).all()
    for value in (math.nan, math.inf, -math.inf):
        broken = map_tensors(Tensor.clone, outputs_of(case))
        tensors_in(broken)[0].view(48, -1)[7, 0] = value
        assert errors_of(task, broken, targets)[7] == 1
        reference = task.reference(outputs_of(case))
        assert divergences_of(task, broken, reference)[7] == task.most_divergence


def test_divergence_is_zero_for_the_same_outputs_and_never_negative(case: Case) -> None:
    task, _ = fitted(case)
    outputs = outputs_of(case)
    reference = task.reference(outputs)
    assert divergences_of(task, outputs, reference).abs().max() <= 1e-6
    noise = torch.Generator().manual_seed(1)
    for scale in (0.01, 1.0, 1e6):
        others = map_tensors(lambda tensor, s=scale: tensor + s * torch.randn(tensor.shape, generator=noise), outputs)
        apart = divergences_of(task, others, reference)
        assert apart.dtype == torch.float64
        assert ((apart >= 0) & (apart <= task.most_divergence)).all()
        assert apart.sum() > 0


def test_distillation_is_least_for_the_teachers_own_outputs(case: Case) -> None:
    task, _ = fitted(case)
    outputs = outputs_of(case)
    noise = torch.Generator().manual_seed(1)
    others = map_tensors(lambda tensor: tensor + torch.randn(tensor.shape, generator=noise), outputs)
    assert float(task.distillation_loss(outputs, outputs, 2.0)) == pytest.approx(0, abs=1e-5)
    assert float(task.distillation_loss(others, outputs, 2.0)) > 1e-4


def test_the_root_of_the_curvature_has_the_hessian_for_its_mean_square(case: Case) -> None:
    """Of one example's loss by its outputs; a task of one's own has that of half the squared difference."""
    task, targets = fitted(case)
    outputs, wanted = select(outputs_of(case), slice(1)), select(targets, slice(1))
    if case in (CASES["like_teacher"], CASES["own"]):
        assert task.curvature_root(outputs, "signs") == "signs"
        return
    hessian = torch.autograd.functional.hessian(lambda flat: task.loss(flat.reshape(outputs.shape), wanted), outputs)
    size = outputs.numel()
    generator, mean = torch.Generator().manual_seed(0), torch.zeros(size, size)
    for _ in range(2000):
        signs = 2.0 * torch.randint(0, 2, outputs.shape, generator=generator) - 1
        root = task.curvature_root(outputs, signs).flatten()
        mean += root.outer(root) / 2000
    expected = hessian.reshape(size, size)
    if case is CASES["segmentation"]:  # ignored pixels have no curvature, but are not known to the root
        counted = (wanted.flatten() != 255).repeat(2)
        mean, expected = mean[counted][:, counted], expected[counted][:, counted] * (56 / 64)
    assert (mean - expected).abs().max() <= 0.1 * expected.abs().max()


def problem(case: Case, tolerance: float = 0.2, execution: Execution | None = None, balanced: bool = False) -> Problem:
    task, targets = fitted(case)
    network = case.made().double()
    space = ep.search_space(network, IMAGES[:1].double())
    images = IMAGES.double()
    return make_problem(
        network,
        space,
        images[:16],
        images,
        targets,
        tolerance=tolerance,
        compensate=True,
        device=CPU,
        task=task,
        execution=execution,
        balanced=balanced,
    )


def genomes(posed: Problem) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [posed.space.full(), *(posed.space.random(rng, keep) for keep in (0.9, 0.7, 0.5, 0.3))]


def test_masked_and_compact_networks_have_the_same_scores(case: Case) -> None:
    compact = problem(case, tolerance=1.0)
    masked = replace(compact, execution=Execution(compacted=False, fused=False))
    for genome in genomes(compact):
        one, other = (Scorer(posed, CPU).score(genome).score for posed in (compact, masked))
        assert one.errors == pytest.approx(other.errors, abs=1e-6)
        assert one.divergence == pytest.approx(other.divergence, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("batch_size", [5, 48])
def test_the_early_stop_comes_where_the_sum_passes_what_is_allowed(case: Case, batch_size: int, balanced: bool) -> None:
    if balanced and case.task.classes_of(torch.zeros(1)) is None:
        pytest.skip("examples without classes")
    posed = problem(case, 0.02, Execution(batch_size), balanced)
    endless = Scorer(replace(posed, execution=Execution(batch_size, early_stop=False)), CPU)
    most = max(endless.score(genome).score.errors for genome in genomes(posed))
    posed = replace(posed, allowed_errors=type(posed.allowed_errors)(0.8 * most))
    whole = replace(posed, execution=Execution(batch_size, early_stop=False))
    stopped = 0
    for genome in genomes(posed):
        outputs = Scorer(whole, CPU).outputs(genome)
        each = errors_of(posed.task, outputs, posed.targets)
        if posed.weights is not None:
            each = (each * posed.weights * 2**24).floor() / 2**24
        sums = each.double().cumsum(0)
        score = Scorer(posed, CPU).score(genome).score
        assert Scorer(whole, CPU).score(genome).score.errors == sums[-1]
        over = (sums > posed.allowed_errors).nonzero().flatten()
        seen = int(over[0]) + 1 if len(over) else 48
        stopped += seen < 48
        assert (score.images_seen, score.errors) == (seen, sums[seen - 1])
        assert score.feasible == (not len(over))
    assert stopped


def test_errors_of_images_are_kept_within_a_byte(case: Case) -> None:
    posed = problem(case, tolerance=1.0)
    genome = genomes(posed)[-1]
    outcome, scorer = Scorer(posed, CPU).score(genome), Scorer(posed, CPU)
    exact = errors_of(posed.task, scorer.outputs(genome), posed.targets).double().numpy()
    assert np.abs(outcome.image_errors() - exact).max() <= 0.5 / 255 + 1e-9
    assert len(outcome.packed) == (6 if exact.dtype == bool or outcome.are_bits else 48)


# --- runs


def evolved(case: Case, out: Path, workers: ep.WorkersConfig = SERIAL, generations: int = 2) -> ep.Run:
    part = (lambda a, b: IMAGES[a:b]) if case.targets is None else (lambda a, b: (IMAGES[a:b], case.targets[a:b]))
    return ep.evolve(
        case.made(),
        IMAGES[:1],
        part(0, 24),
        IMAGES[24:],
        train=part(24, 48),
        task=case.task,
        tolerance=0.3,
        search=ep.SearchConfig(population=4, generations=generations),
        retrain=ep.RetrainConfig(epochs=1, survivors=1),
        workers=workers,
        device="cpu",
        out=out,
    )


TIMES = ["eval_seconds"]


def test_a_run_goes_on_as_if_never_interrupted_and_is_the_same_on_ray(
    case: Case, tmp_path: Path, shared_ray: SharedRay
) -> None:
    straight = evolved(case, tmp_path / "straight")
    evolved(case, tmp_path / "resumed", generations=1)
    resumed = evolved(case, tmp_path / "resumed")
    shared_ray.start()
    on_ray = evolved(case, tmp_path / "ray", ep.WorkersConfig(backend="ray", count=2))
    for other in (resumed, on_ray):
        assert other.candidates.drop(columns=TIMES).equals(straight.candidates.drop(columns=TIMES))
        for column in ("key", "mcr_search", "mcr_retrained"):
            assert other.survivors[column].tolist() == straight.survivors[column].tolist()
    mcr = straight.candidates["mcr"].dropna()
    assert mcr.between(0, 1).all()
    assert len(straight.survivors) == 1
    small = straight.load_survivor(straight.survivors["key"].iloc[0])
    assert [t.shape for t in tensors_in(small(IMAGES[:2]))] == [t.shape for t in tensors_in(case.made()(IMAGES[:2]))]


def test_another_task_is_another_run(tmp_path: Path) -> None:
    evolved(CASES["own"], tmp_path / "run", generations=1)
    for task, message in (
        (Brightness(power=3), r"task_options\.power cannot change .* it is 2 there, not 3"),
        (Regression(), r"task cannot change .* tests\.tasks\.own_task:Brightness there, not regression"),
    ):
        with pytest.raises(ConfigError, match=message):
            evolved(replace(CASES["own"], task=task), tmp_path / "run", generations=1)


# --- mistakes


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("segmentation", {"ignor_index": 1}, "segmentation has no option 'ignor_index'; it has ignore_index"),
        ("regression", {"variances": 1}, "regression has no option 'variances'; it has none: leave task_options out"),
        ("segmentation", {"ignore_index": "x"}, "task_options.ignore_index must be a whole number, or null, not 'x'"),
        ("like_teacher", {"tolerance": 0}, "task_options.tolerance must be a number above 0"),
        ("detection", {}, "there is no task 'detection'"),
        ("tests.tasks.own_task:not_a_task", {}, "must make an ep.Task, not a int"),
        ("tests.tasks.own_task:missing", {}, "has no 'missing'"),
        ("tests.tasks.own_task:Brightness", {"size": 2}, "has no option 'size'; it has power"),
    ],
)
def test_mistakes_in_a_tasks_name_or_options(reference: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ep.UserError, match=message):
        make_task(reference, options)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Failing(), r"own_task:Failing: errors\(\) failed \(KeyError: 'first line"),
        (
            Shapeless(),
            r"own_task:Shapeless: errors\(\) must give a number for each example, a tensor \(48,\), not",
        ),
        (Negative(), r"own_task:Negative: errors\(\) must give shares from 0 to 1, not -1"),
        (Undefined(), r"own_task:Undefined: errors\(\) must give shares from 0 to 1, not nan"),
    ],
)
def test_a_mistake_of_the_users_task_names_it(task: ep.Task, message: str) -> None:
    targets = CASES["own"].targets
    with pytest.raises(PluginError, match=message):
        errors_of(task, outputs_of(CASES["own"]), targets)


@pytest.mark.parametrize("backend", ["serial", "ray"])
def test_a_task_that_fails_in_a_search_ends_the_run_which_goes_on_with_a_better_one(
    backend: Any, tmp_path: Path, shared_ray: SharedRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unpruned network's bias is the mean of the targets; a network without most of its maps is far from them."""
    if backend == "ray":
        shared_ray.start()
    workers = ep.WorkersConfig(backend=backend, count="auto" if backend == "serial" else 2)
    case = replace(CASES["own"], task=FailingLater())
    network = case.made()
    norm = network.get_submodule("norm1")
    assert isinstance(norm, torch.nn.BatchNorm2d)
    norm.momentum = None  # its statistics are those of the calibration images, as in scores
    network.train()(IMAGES[24:])
    network.eval()
    with torch.no_grad():
        network.get_parameter("out.weight").fill_(3.0)  # all outputs are sums of what the maps hold
        network.get_parameter("out.bias").fill_(0.5 - float(network(IMAGES).mean()))
    case = replace(case, network=lambda: network)
    with pytest.raises(PluginError, match=r"task: tests\.tasks\.own_task:FailingLater: errors\(\) failed \(KeyError: "):
        evolved(case, tmp_path / "run", workers)
    assert (tmp_path / "run" / "config.yaml").is_file()
    monkeypatch.setattr(FailingLater, "errors", Brightness.errors)
    if backend == "serial":  # actors have imported the class that fails
        assert evolved(case, tmp_path / "run", workers).candidates["generation"].max() == 2


def test_a_task_is_described_as_a_config_names_it() -> None:
    assert described(Segmentation(ignore_index=255)) == ("segmentation", {"ignore_index": 255})
    assert described(Regression) == ("regression", {})
    assert described(Brightness(power=2)) == ("tests.tasks.own_task:Brightness", {"power": 2})


TARGETS = {
    "classification": (torch.rand(4), "whole numbers"),
    "binary": (torch.tensor([0, 1, 2]), "0 or 1"),
    "multilabel": (torch.tensor([0, 1]), "of 0 and 1"),
    "segmentation": (torch.rand(2, 8, 8), "whole numbers"),
    "regression": (torch.tensor([math.nan]), "finite"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_another_kind_are_refused(name: str) -> None:
    targets, message = TARGETS[name]
    with pytest.raises(DataError, match=rf"^train .*{message}"):
        CASES[name].task.checked_targets(targets, "train")


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("like_teacher", "own")])
def test_a_network_of_another_kind_is_refused(name: str) -> None:
    case = CASES[name]
    targets = case.task.checked_targets(case.targets, "validation")
    case.task.check_outputs(select(outputs_of(case), slice(1)), targets, "validation")
    with pytest.raises(DataError):
        case.task.check_outputs(torch.zeros(1, 7, 3), targets, "validation")
    with pytest.raises(DataError):
        case.task.check_outputs({"a": torch.zeros(1, 2)}, targets, "validation")


def test_images_without_labels_have_the_networks_own_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = CASES["classification"]
    alone = evolved(replace(case, targets=None), tmp_path / "alone")
    assert "validation images have no labels: the unpruned network's own answers stand in" in caplog.text
    answers = case.task.answers(outputs_of(case))
    answered = evolved(replace(case, targets=answers), tmp_path / "answered")
    assert alone.candidates.drop(columns=TIMES).equals(answered.candidates.drop(columns=TIMES))
    whole = alone.candidates.iloc[0]
    assert whole["macs"] == alone.candidates["macs"].max()
    assert with_own_answers.__doc__


def test_without_labels_and_logits_the_networks_outputs_are_the_targets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = ep.evolve(
        CASES["like_teacher"].made(),
        IMAGES[:1],
        IMAGES[:24],
        IMAGES[24:],
        tolerance=0.5,
        search=ep.SearchConfig(population=4, generations=1),
        workers=SERIAL,
        device="cpu",
        out=tmp_path / "run",
    )
    assert run.config.task == "like_teacher"
    assert "its own outputs are the targets" in caplog.text
    assert not run.survivors.empty


def test_references_that_are_too_large_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """48 images of 2 x 64 numbers of 8 bytes; the scores are the same but for the divergence."""
    case = CASES["segmentation"]
    posed, size = problem(case, tolerance=1.0), 48 * 2 * 64 * 8
    task, targets = fitted(case)

    def with_bytes(most: int) -> Problem:
        return make_problem(
            posed.model,
            posed.space,
            posed.calibration,
            IMAGES.double(),
            targets,
            tolerance=1.0,
            compensate=True,
            device=CPU,
            task=task,
            reference_bytes=most,
        )

    assert with_bytes(size).reference is not None
    assert caplog.messages == []
    without = with_bytes(size - 1)
    assert without.reference is None
    assert "no divergence from the unpruned network is measured" in caplog.text
    genome = genomes(posed)[2]
    one, other = (Scorer(each, CPU).score(genome).score for each in (posed, without))
    assert (one.errors, one.images_seen) == (other.errors, other.images_seen)
    assert other.divergence is None
