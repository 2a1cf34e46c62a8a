"""What is guessed of genomes that were not scored."""

import numpy as np
import pytest

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.search.surrogate import MOST_EXAMPLES, NOISES, GaussianProcess, Surrogate
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from tests.search.made_up import candidate, space_of

MACS = Objective("macs")


def narrowed(space: SearchSpace, *widths: int) -> Genome:
    """The first so many maps of each group."""
    genome = space.full()
    for group, width in zip(space.groups, widths, strict=True):
        genome[group.start + width : group.start + group.size] = 0
    return genome


def told(space: SearchSpace, widths: tuple[int, ...], errors: int) -> Candidate:
    genome = narrowed(space, *widths)
    score = candidate(errors, 1).score
    return Candidate(0, space.key(genome), genome, score, cached=False)


def test_a_process_by_hand() -> None:
    """Two examples that know nothing of each other: each is believed but for the noise; far off nothing is known.

    Every length and noise is as likely, which leaves a variance of 1 / (1 + noise).
    """
    process = GaussianProcess(np.array([[0.0], [100.0]]), np.array([6.0, 4.0]))
    mean, deviation = process.predict(np.array([[0.0], [100.0], [50.0]]))
    noise = 1 / (mean[0] - 5) - 1
    assert min(abs(noise - one) for one in NOISES) < 1e-9
    assert mean == pytest.approx([5 + 1 / (1 + noise), 5 - 1 / (1 + noise), 5])
    assert deviation == pytest.approx([noise**0.5 / (1 + noise), noise**0.5 / (1 + noise), (1 + noise) ** -0.5])


def test_a_plane_is_learnt() -> None:
    inputs = np.random.default_rng(0).uniform(0, 3, (60, 3))
    slopes = np.array([1.0, -2.0, 0.5])
    mean, deviation = GaussianProcess(inputs[:40], inputs[:40] @ slopes).predict(inputs[40:])
    assert mean == pytest.approx(inputs[40:] @ slopes, abs=0.2)
    assert (deviation < 0.3).all()


def test_equal_targets_give_constant_predictions() -> None:
    mean, deviation = GaussianProcess(np.zeros((3, 2)), np.full(3, 7.0)).predict(np.ones((2, 2)))
    assert mean == pytest.approx([7, 7])
    assert deviation == pytest.approx([0, 0], abs=1e-5)


def test_the_layer_whose_maps_count_is_kept_wide() -> None:
    """Errors fall with the width of the second group alone."""
    space = space_of(10, 10)
    surrogate = Surrogate(space, MACS)
    surrogate.tell([told(space, (one, other), 50 // other) for one in (2, 5, 10) for other in (2, 5, 10)])
    wide, narrow = narrowed(space, 3, 8), narrowed(space, 8, 3)
    assert surrogate.most_promising([narrow, wide]) is wide
    assert surrogate.most_promising([wide, narrow]) is wide


def test_it_goes_by_the_latest_and_is_restored_from_their_keys() -> None:
    space = space_of(30, 30)
    rng = np.random.default_rng(0)
    candidates: dict[str, Candidate] = {}
    for _ in range(MOST_EXAMPLES + 200):
        one = told(space, tuple(rng.integers(1, 31, 2).tolist()), int(rng.integers(100)))
        candidates.setdefault(one.key, one)
    surrogate, restored = Surrogate(space, MACS), Surrogate(space, MACS)
    surrogate.tell(list(candidates.values()))
    assert surrogate.keys == list(candidates)[-MOST_EXAMPLES:]
    restored.restore(surrogate.keys, candidates)
    litter = [narrowed(space, *rng.integers(1, 31, 2).tolist()) for _ in range(20)]
    assert restored.most_promising(litter) is surrogate.most_promising(litter)


def test_repeated_candidates_count_once() -> None:
    space = space_of(10, 10)
    surrogate = Surrogate(space, MACS)
    surrogate.tell([told(space, (5, 5), 10), told(space, (5, 5), 20)])
    surrogate.tell([told(space, (5, 5), 30), told(space, (6, 5), 30)])
    assert surrogate.keys == [space.key(narrowed(space, 5, 5)), space.key(narrowed(space, 6, 5))]
