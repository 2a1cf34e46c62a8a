"""What a generation is scored under: whom a known candidate stops, and the order of the images."""

import numpy as np

from evoprune.scoring.candidate import Outcome, Score
from evoprune.scoring.conditions import Conditions, ImageRecord


def outcome(wrong: list[bool], images: int = 4) -> Outcome:
    score = Score(sum(wrong), len(wrong), images, None, len(wrong) == images, 1, 1, 1, 0.0)
    return Outcome.of(score, np.array(wrong))


def test_what_is_beaten_by_hand() -> None:
    """Known: 30 errors at 10, 20 errors at 15. At 12 the first one counts, at 15 and more the second one."""
    conditions = Conditions(np.arange(4), dominance_bounds=((10, 30), (15, 20)))
    assert [conditions.fitness_bound(cost) for cost in (9, 10, 12, 15, 99)] == [np.inf, 30, 30, 20, 20]
    assert Conditions(np.arange(4)).fitness_bound(99) == np.inf


def test_flags_of_an_outcome_come_back() -> None:
    flags = [True, False, False, True, True, False, True, False, False, True]
    assert outcome(flags, images=20).image_errors().tolist() == flags
    assert len(outcome(flags, images=20).packed) == 2


def test_the_record_by_hand() -> None:
    """Order 2, 0, 3, 1. One candidate sees all and errs on images 2 and 1; another stops after images 2 and 0."""
    record = ImageRecord(np.array([0.0, 0.0, 0.0, 0.8]))
    order = np.array([2, 0, 3, 1])
    after = record.updated([(order, [outcome([True, False, False, True]), outcome([False, True])])])
    # shares of this generation: image 0: 1/2, 1: 1/1, 2: 1/2, 3: 0/1; half of it, and half of what was
    assert after.wrong_share.tolist() == [0.25, 0.5, 0.25, 0.4]
    assert after.order().tolist() == [1, 3, 0, 2]
    assert record.wrong_share.tolist() == [0.0, 0.0, 0.0, 0.8]


def test_images_that_nobody_saw_keep_what_they_had() -> None:
    record = ImageRecord(np.array([0.1, 0.2, 0.3, 0.4]))
    assert record.updated([]).wrong_share.tolist() == record.wrong_share.tolist()
    after = record.updated([(np.array([3, 2, 1, 0]), [outcome([True])])])
    assert after.wrong_share.tolist() == [0.1, 0.2, 0.3, 0.7]


def test_at_first_images_stay_in_their_order() -> None:
    assert ImageRecord.empty(5).order().tolist() == [0, 1, 2, 3, 4]
