"""A schedule: prune, train, repeat, down to one target; targets of rounds are shares of the first network."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import Tensor, nn

import evoprune as ep
from evoprune.config.loading import config_from_dict, round_configs
from evoprune.costs import predicted_latency
from evoprune.errors import ConfigError
from evoprune.latency.prediction import LatencyTable, LayerTimeGrid
from evoprune.progress import SilentProgress
from evoprune.record.folder import RunFolder
from evoprune.report.write import write_report
from tests import tiny_runs
from tests.tiny_runs import WHOLE_MACS

RANKED: dict[str, object] = {
    "search.algorithm": "ranking",
    "search.criterion": "l1",
    "search.population": 4,
    "search.generations": 1,
}

SCHEDULED = RANKED | {"search.target_cost": 0.16, "search.schedule": "exponential", "search.steps": 2}


def scheduled(**search: Any) -> dict[str, Any]:
    return {"name": "x", "search": {"target_cost": 0.125, "schedule": "exponential", "steps": 3} | search}


def test_steps_are_rounds() -> None:
    """An eighth in three steps: a half, a quarter, an eighth; only the last one's survivors are compared."""
    rounds = round_configs(config_from_dict(scheduled()))
    assert [one.search.target_cost for one in rounds] == pytest.approx([0.5, 0.25, 0.125])
    assert [one.retrain.survivors for one in rounds] == [1, 1, 3]
    assert not any(one.search.in_rounds for one in rounds)
    assert {one.retrain.epochs for one in rounds} == {2}


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        (
            {"steps": 1},
            "search must have steps 1 with schedule one_shot, and 2 or more with any other, not exponential",
        ),
        ({"schedule": "one_shot"}, "search must have steps 1 with schedule one_shot, .* not one_shot with 3"),
        ({"target_cost": None}, "search must have exactly one target_cost and no rounds with schedule exponential"),
        ({"target_cost": [0.5, 0.25]}, "search must have exactly one target_cost and no rounds"),
        ({"rounds": [{}, {}]}, "search must have exactly one target_cost and no rounds"),
        ({"schedule": "cubics"}, 'search.schedule must be one of one_shot, linear, exponential, cubic, not "cubics"'),
    ],
)
def test_complaints(search: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        config_from_dict(scheduled(**search))
    assert "\n" not in str(caught.value)


def test_a_round_has_no_schedule_of_its_own() -> None:
    rounds = [{}, {"search": {"schedule": "cubic", "steps": 2, "target_cost": 0.5}}]
    with pytest.raises(ConfigError, match=r"search.rounds, round 2: search.schedule must not be in a round"):
        config_from_dict({"name": "x", "search": {"rounds": rounds}})


def test_masks_go_with_the_last_round_alone() -> None:
    with pytest.raises(ConfigError, match=r"search.steps, round 1: space.kernels must be false in all rounds but"):
        config_from_dict(scheduled() | {"space": {"kernels": True}})


def test_a_ranking_has_no_masks() -> None:
    with pytest.raises(ConfigError, match=r"search.algorithm must not be ranking with space.kernels or"):
        config_from_dict({"name": "x", "space": {"kernels": True}, "search": {"algorithm": "ranking"}})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """16% of 91,104 MACs in two exponential steps: 40% are 36,441.6, and then 14,576.64."""
    return tiny_runs.run(tmp_path_factory.mktemp("scheduled") / "run", SCHEDULED)


def test_every_step_has_its_share_of_the_first_network(run: ep.Run) -> None:
    """The second step would leave 16% of 36,441 MACs if its share were of the network that it begins with."""
    assert WHOLE_MACS == 91_104
    [first] = tiny_runs.rows(ep.load_run(run.root / "rounds" / "1").survivors)
    assert 0.6 * 36_442 < first.macs < 36_442
    cheapest = tiny_runs.rows(run.survivors)[0]
    assert 0.6 * 14_577 < cheapest.macs < 14_577
    assert cheapest.macs_ratio == cheapest.macs / WHOLE_MACS
    counted = sum(weights.numel() for weights in run.load_survivor(cheapest.key).parameters())
    assert counted == cheapest.params


def test_it_goes_on_and_is_shown_in_rounds(run: ep.Run, tmp_path: Path) -> None:
    """Stopped between its steps it ends as it did; the report says how many there were."""

    class Stopping(SilentProgress):
        def stage(self, name: str, detail: str = "") -> None:
            if (name, detail) == ("round", "2 of 2"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(tmp_path / "run", SCHEDULED, progress=Stopping())
    again = ep.resume(tmp_path / "run")
    pd.testing.assert_series_equal(again.survivors["mcr_test"], run.survivors["mcr_test"])
    assert again.survivors["key"].tolist() == run.survivors["key"].tolist()
    write_report(again)
    assert "in 2 rounds" in RunFolder(again.root).report.read_text()


def by_weights(model: nn.Module, space: ep.SearchSpace, image: Tensor) -> LatencyTable:
    """A microsecond for every pair of an output and an input of a layer."""
    layers = tuple(
        LayerTimeGrid(layer.weight, rows, columns, tuple(tuple(r * c / 1000 for c in columns) for r in rows))
        for layer in space.layers
        for rows, columns in [[tuple(sorted({1, size})) for size in layer.shape[:2]]]
    )
    return LatencyTable(layers, ((0.0, 0.0),))


def test_shares_of_latency_are_of_the_first_networks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole network takes 4 x 1 + 8 x 4 + 16 x 392 + 10 x 16 = 6,468 microseconds; 40% and 16% of it are left."""
    monkeypatch.setattr(predicted_latency, "latency_table", by_weights)
    run = tiny_runs.run(tmp_path / "run", SCHEDULED | {"search.cost": "latency_ms"})
    for part, share in ((ep.load_run(run.root / "rounds" / "1"), 0.4), (run, 0.16)):
        predicted_ms = part.survivors.predicted_latency_ms.iloc[0]
        assert 0.6 * share * 6.468 < predicted_ms <= share * 6.468
