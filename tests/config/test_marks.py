"""The marks of the schema's keys."""

import pytest

from evoprune.config.fields import Mark
from evoprune.config.loading import config_from_dict
from evoprune.config.marks import keys_with
from evoprune.record.runs import flat_config

LEAVES = flat_config(config_from_dict({"name": "a"})).keys()

WORKERS = {"workers.backend", "workers.count", "workers.address", "workers.timeout_s", "workers.epoch_timeout_s"}
SHARED = {*WORKERS, "workers.threads", "workers.memory", "workers.gram_memory"}
RETRAIN = {
    *("retrain.survivors", "retrain.epochs", "retrain.learning_rate", "retrain.batch_size", "retrain.momentum"),
    *("retrain.weight_decay", "retrain.precision", "retrain.distillation", "retrain.temperature", "retrain.start"),
    *("retrain.compensation", "retrain.recipe", "retrain.ema"),
}
RECORD = {"record.report", "record.tensorboard"}

MARKED = {
    Mark.MAY_CHANGE: {"search.generations", "device", "workers.memory", *WORKERS, *RETRAIN, *RECORD},
    Mark.NO_RESULT: {*WORKERS, *RECORD},
    Mark.NOT_COMPARED: {"name", "seed", "device", "data.root", *SHARED, *RECORD},
    Mark.OUTSIDE_SEARCH: {"name", "search.rounds"},
    Mark.SAME_IN_SWEEP: {"device", *SHARED},
    Mark.SAME_IN_STUDY: {
        "search.compensation",
        "search.cost",
        "search.metric",
        "search.target_cost",
        "search.tolerance",
    },
}


@pytest.mark.parametrize("mark", Mark)
def test_the_keys_of_each_mark(mark: Mark) -> None:
    assert keys_with(mark) & LEAVES == MARKED[mark]


def test_a_marked_section_is_listed_beside_its_keys() -> None:
    assert keys_with(Mark.SAME_IN_SWEEP) - LEAVES == {"workers"}
    assert keys_with(Mark.MAY_CHANGE) - LEAVES == {"retrain", "record"}
