"""The fast way to a score against the plain one; exactness, early stop, and nothing left over between candidates."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.errors import SearchSpaceError
from evoprune.scoring.candidate import Score
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.execution import Execution
from evoprune.scoring.measures import allowed_errors
from evoprune.scoring.scorer import Problem, Scorer
from evoprune.surgery.compensation import compensated
from evoprune.surgery.layer_statistics import gram_statistics
from evoprune.surgery.recalibration import recalibrate
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import count_errors_of, divergences_of
from tests.scoring.problems import CPU, NETWORKS, genomes, problem

TASK = Classification()
MOST = TASK.most_divergence


def plain_network(posed: Problem, genome: np.ndarray) -> nn.Module:
    """The genome's network by copies and public functions alone."""
    model = copy.deepcopy(posed.model)
    if posed.statistics is not None:
        tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        model.load_state_dict(tensors | compensated(tensors, posed.space, posed.space.check(genome), posed.statistics))
    small = ep.compact(model, posed.space, genome).eval()
    recalibrate(small, posed.calibration)
    return small


def plain_errors(posed: Problem, genome: np.ndarray) -> Tensor:
    """Which of the validation images are misclassified: bool (images,)."""
    with torch.no_grad():
        logits = plain_network(posed, genome)(posed.images)
    return (logits.argmax(1) != posed.targets) | ~logits.isfinite().all(1)


def untimed(score: Score) -> Score:
    return dataclasses.replace(score, eval_seconds=0.0)


@pytest.mark.parametrize("compensate", [True, False], ids=["compensated", "cut"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_fast_way_equals_the_plain_one(name: str, compensate: bool) -> None:
    posed = problem(name, compensate=compensate)
    scorer = Scorer(posed, CPU)
    scores = []
    for genome in genomes(posed.space):
        score = scorer.score(genome).score
        errors = plain_errors(posed, genome)
        assert score.errors == int(errors[: score.images_seen].sum())
        assert score.feasible == (int(errors.sum()) <= posed.allowed_errors)
        assert score.exact == (score.images_seen == score.images == 60)
        assert (score.macs, score.params, score.bytes) == dataclasses.astuple(ep.cost(posed.space, genome))
        assert score.eval_seconds > 0
        scores.append(score)
    assert {score.exact for score in scores} == {True, False}


MASKS: list[tuple[bool, bool, bool, str]] = [
    (False, True, False, "input_map"),
    (False, False, True, "input_map"),
    (False, False, True, "kernel"),
    (True, True, False, "input_map"),
    (True, True, True, "layer"),
    (True, True, True, "kernel"),
]


@pytest.mark.parametrize(
    ("name", "masks"),
    [*((name, masks) for name in ("plain", "concatenating") for masks in MASKS), ("depthwise", MASKS[-2])],
    ids=str,
)
def test_the_fast_way_equals_the_plain_one_under_every_mask(name: str, masks: tuple[bool, bool, bool, str]) -> None:
    posed = problem(name)
    *kinds, sharing = masks
    example = torch.zeros(1, 1, 14, 14, dtype=torch.float64)
    space = ep.search_space(
        posed.model,
        example,
        feature_maps=kinds[0],
        kernels=kinds[1],
        strides=kinds[2],
        stride_sharing=sharing,  # type: ignore[arg-type]
    )
    statistics = gram_statistics(posed.model, space, posed.calibration)
    posed = dataclasses.replace(posed, space=space, statistics=statistics, allowed_errors=60)
    scorer, rng = Scorer(posed, CPU), np.random.default_rng(0)
    for keep in (0.8, 0.4) if name != "depthwise" else (0.6,):
        genome = space.random(rng, keep)
        score = scorer.score(genome).score
        assert (score.exact, score.images_seen) == (True, 60)
        assert (score.macs, score.params, score.bytes) == dataclasses.astuple(ep.cost(space, genome))
        with torch.no_grad():
            expected = plain_network(posed, genome)(posed.images)
            found = scorer.prepare(genome)(posed.images)
        assert score.errors == count_errors_of(posed.task, expected, posed.targets)
        assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_that_nothing_stops_are_exact(name: str) -> None:
    posed = dataclasses.replace(problem(name), allowed_errors=60)
    genome = genomes(posed.space)[-1]
    score = Scorer(posed, CPU).score(genome).score
    assert (score.exact, score.feasible, score.images_seen) == (True, True, 60)
    assert score.errors == int(plain_errors(posed, genome).sum())
    assert score.mcr == score.errors / 60


def test_in_single_precision_the_two_ways_agree_up_to_rounding() -> None:
    posed = problem("plain", dtype=torch.float32)
    scorer = Scorer(posed, CPU)
    for genome in genomes(posed.space):
        with torch.no_grad():
            expected = plain_network(posed, genome)(posed.images)
            found = scorer.prepare(genome)(posed.images)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("batch_size", [1, 7, 60, 100])
def test_an_early_stop_tells_nothing_but_the_truth(batch_size: int) -> None:
    """It comes at the image at which the errors pass what is allowed, in whatever batches, and says so."""
    posed = dataclasses.replace(problem("plain"), execution=Execution(batch_size), allowed_errors=10)
    scorer = Scorer(posed, CPU)
    for genome in genomes(posed.space):
        outcome, errors = scorer.score(genome), plain_errors(posed, genome).long()
        score, reached = outcome.score, errors.cumsum(0)
        assert outcome.image_errors().tolist() == errors[: score.images_seen].bool().tolist()
        if int(reached[-1]) <= 10:
            assert (score.exact, score.feasible, score.errors) == (True, True, int(reached[-1]))
            continue
        seen = int((reached > 10).nonzero()[0]) + 1
        assert (score.images_seen, score.exact, score.feasible) == (seen, seen == 60, False)
        assert score.errors == 11
        assert (score.mcr is None) == (seen < 60)


def test_what_a_known_one_beats_is_stopped_and_left_open() -> None:
    """Candidates of 6 to 40 errors, where 30 are tolerated and one of half the MACs is known to make 12."""
    posed = problem("plain")
    half = ep.cost(posed.space, posed.space.full()).macs // 2
    scorer = Scorer(posed, CPU)
    scorer.set_conditions(Conditions(np.arange(60), dominance_bounds=((half, 12),)))
    found = set()
    for genome in genomes(posed.space, 24):
        score, errors = scorer.score(genome).score, int(plain_errors(posed, genome).sum())
        cheaper = score.macs < half
        found.add((cheaper, score.feasible))
        if errors <= 12 or (cheaper and errors <= 30):
            assert (score.exact, score.feasible, score.errors) == (True, True, errors)
        elif cheaper:
            assert (score.feasible, score.errors) == (False, 31)
        else:
            assert (score.feasible, score.errors) == (None, 13)
    assert {(False, True), (False, None)} < found


def test_divergences_by_hand() -> None:
    """Of two classes: 1/2 ln(1/2 / 4/5) + 1/2 ln(1/2 / 1/5) = ln(5/4); the same; the opposite; not finite."""
    said = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]).log()
    said[2] = torch.tensor([200.0, -200.0])
    given = torch.tensor([[4.0, 1.0], [9.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]).log()
    given[2:] = torch.tensor([[-200.0, 200.0], [math.nan, 0.0], [math.inf, 0.0]])
    found = divergences_of(TASK, given, TASK.reference(said))
    assert found.tolist() == pytest.approx([math.log(5 / 4), 0, MOST, MOST, MOST], abs=1e-6)


def test_the_divergence_is_that_of_the_images_seen() -> None:
    posed = problem("plain")
    scorer = Scorer(posed, CPU)
    said = scorer.outputs(posed.space.full())
    assert scorer.score(posed.space.full()).score.divergence == pytest.approx(0, abs=1e-5)
    seen = set()
    for genome in genomes(posed.space):
        score = scorer.score(genome).score
        with torch.no_grad():
            apart = divergences_of(TASK, plain_network(posed, genome)(posed.images), TASK.reference(said))
        assert score.divergence == pytest.approx(float(apart[: score.images_seen].sum()), rel=1e-3, abs=1e-4)
        seen.add(score.exact)
    assert seen == {True, False}


def test_what_diverges_more_than_a_known_one_is_stopped_and_left_open() -> None:
    """At the image at which it does; whoever makes more errors than are tolerated is infeasible as ever."""
    posed = problem("plain")
    half = ep.cost(posed.space, posed.space.full()).macs // 2
    scorer = Scorer(posed, CPU)
    whole = {posed.space.key(genome): scorer.outputs(genome) for genome in genomes(posed.space, 24)}
    said = scorer.outputs(posed.space.full())
    nats = {key: divergences_of(TASK, logits, TASK.reference(said)).numpy() for key, logits in whole.items()}
    bound = float(np.quantile([apart.sum() for apart in nats.values()], 0.2))
    scorer.set_conditions(Conditions(np.arange(60), dominance_bounds=((half, bound),), judged_by="divergence"))
    found = set()
    for genome in genomes(posed.space, 24):
        score, key = scorer.score(genome).score, posed.space.key(genome)
        wrong_so_far = plain_errors(posed, genome).numpy().cumsum()
        over = (wrong_so_far > posed.allowed_errors) | ((nats[key].cumsum() > bound) & (score.macs >= half))
        assert score.images_seen == (int(over.argmax()) + 1 if over.any() else 60)
        infeasible = score.errors > posed.allowed_errors
        assert score.feasible == (False if infeasible else None if over.any() else True)
        found.add(score.feasible)
    assert found == {True, False, None}


def test_images_are_seen_in_the_order_of_the_conditions() -> None:
    posed = dataclasses.replace(problem("plain"), allowed_errors=10)
    genome = genomes(posed.space)[-1]
    errors = plain_errors(posed, genome).numpy()
    scorer = Scorer(posed, CPU)
    right_first = np.argsort(errors, kind="stable")
    scorer.set_conditions(Conditions(right_first))
    last = scorer.score(genome)
    scorer.set_conditions(Conditions(right_first[::-1].copy()))
    first = scorer.score(genome)
    assert (first.score.images_seen, last.score.images_seen) == (11, int((~errors).sum()) + 11)
    assert first.score.feasible is last.score.feasible is False


@pytest.mark.parametrize("saving", ["compacted", "fused", "channels_last", "early_stop"])
@pytest.mark.parametrize("name", NETWORKS)
def test_savings_change_no_score(name: str, saving: str) -> None:
    posed = problem(name)
    without = dataclasses.replace(posed, execution=dataclasses.replace(posed.execution, **{saving: False}))
    scorers = Scorer(posed, CPU), Scorer(without, CPU)
    for genome in genomes(posed.space, 4):
        fast, plain = (scorer.score(genome).score for scorer in scorers)
        assert plain.feasible == fast.feasible
        assert plain.errors == fast.errors or saving == "early_stop"
        if saving == "early_stop":
            assert (plain.exact, plain.images_seen) == (True, 60)
            assert plain.errors == fast.errors or (plain.errors > 30 and fast.errors == 31)


@pytest.mark.parametrize("name", NETWORKS)
def test_candidates_leave_nothing_behind(name: str) -> None:
    posed = problem(name)
    narrow, wide = genomes(posed.space)[-1], genomes(posed.space)[1]
    before = {key: tensor.clone() for key, tensor in posed.model.state_dict().items()}
    scorer = Scorer(posed, CPU)
    order = [wide, narrow, wide, posed.space.full(), narrow, wide]
    found = [untimed(scorer.score(genome).score) for genome in order]
    assert found == [untimed(Scorer(posed, CPU).score(genome).score) for genome in order]
    assert not posed.model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in posed.model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_prepared_network_is_an_ordinary_one(name: str) -> None:
    """Its own numbers of maps agree with its tensors, and it takes no gradients from the baseline."""
    posed = problem(name)
    genome = genomes(posed.space)[-2]
    found, expected = Scorer(posed, CPU).prepare(genome), plain_network(posed, genome)
    assert repr(found) == repr(expected)
    assert {key: tensor.shape for key, tensor in found.state_dict().items()} == {
        key: tensor.shape for key, tensor in expected.state_dict().items()
    }


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_errors(poison: float) -> None:
    posed = problem("without norm")
    sick = copy.deepcopy(posed.model)
    with torch.no_grad():
        sick.get_parameter("out.bias")[3] = poison
    posed = dataclasses.replace(posed, model=sick, allowed_errors=60)
    score = Scorer(posed, CPU).score(posed.space.full()).score
    assert (score.errors, score.images_seen) == (60, 60)


def test_a_poisoned_weight_makes_every_candidate_infeasible() -> None:
    posed = problem("plain")
    sick = copy.deepcopy(posed.model)
    with torch.no_grad():
        sick.get_parameter("conv1.weight")[:] = math.nan
    scorer = Scorer(dataclasses.replace(posed, model=sick), CPU)
    for genome in genomes(posed.space):
        score = scorer.score(genome).score
        assert (score.feasible, score.exact, score.errors) == (False, False, score.images_seen)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_network_is_scored_as_any_other_and_stays_below_the_tolerance(name: str) -> None:
    """A tenth of the labels are wrong: 6 errors of 60, and 0.4 of tolerance allows 24 more."""
    posed = problem(name)
    score = Scorer(posed, CPU).score(posed.space.full()).score
    assert (score.errors, score.feasible, score.exact, posed.allowed_errors) == (6, True, True, 30)


def test_hard_images_come_first() -> None:
    """The whole network is wrong on 6 of the images: they are the first."""
    posed = problem("concatenating")
    assert plain_errors(posed, posed.space.full()).tolist() == [True] * 6 + [False] * 54


def test_a_genome_of_another_space_is_refused() -> None:
    posed = problem("plain")
    with pytest.raises(SearchSpaceError, match="has 32 genes"):
        Scorer(posed, CPU).score(np.ones(31, np.uint8))


# --- by hand


def test_hardest_first_by_hand() -> None:
    """Margins: 3 - 1 = 2, 0 - 5 = -5, 2 - 2 = 0 and 4 - 2 = 2; equal ones stay in their order."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [5.0, 0.0, 1.0], [2.0, 1.0, 2.0], [0.0, 2.0, 4.0]])
    assert TASK.margins(logits, torch.tensor([0, 1, 2, 2])).tolist() == [2, -5, 0, 2]
    assert torch.argsort(TASK.margins(logits, torch.tensor([0, 1, 2, 2])), stable=True).tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize(
    ("baseline_errors", "images", "tolerance", "allowed"),
    [
        (20, 1000, 0.02, 40),
        (0, 1000, 0.0, 0),
        (3, 100, 0.29, 32),  # 0.29 * 100 is 28.999999999999996
        (7, 200, 0.0149, 9),  # 2.98 images more are 2
        (5, 10, 1.0, 15),
    ],
)
def test_allowed_errors_by_hand(baseline_errors: int, images: int, tolerance: float, allowed: int) -> None:
    assert allowed_errors(baseline_errors, images, tolerance) == allowed
