"""Predicted latency: by hand from a made-up table, and the same again whenever a search goes on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.latency.prediction import LatencyTable, LayerTimeGrid, latency_table
from evoprune.record import files
from evoprune.record.folder import RunFolder
from tests import tiny_runs


def chain() -> nn.Sequential:
    """conv "0": 8 maps on 6x6 pixels; conv "2": 4 maps on 4x4 pixels, the outputs."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


def space_of(model: nn.Module, strides: bool = False) -> ep.SearchSpace:
    return ep.search_space(model, torch.randn(1, 3, 8, 8), strides=strides)


BY_HAND = LatencyTable(
    layers=(
        LayerTimeGrid("0.weight", (4, 8), (3,), ((1.0,), (2.0,))),
        LayerTimeGrid("2.weight", (4,), (2, 4, 8), ((0.5, 0.75, 1.25),), masked=((0.5, 0.6), (1.0, 1.0))),
    ),
    rest=((100.0, 0.1), (352.0, 0.4)),
)


def test_times_are_interpolated_over_widths() -> None:
    space = space_of(chain())
    genome = space.full()
    # full: 2 + 1.25; elements 8 x 36 + 4 x 16 = 352: 0.4
    assert BY_HAND.predict(space, space.check(genome)) == pytest.approx(3.65)
    genome[[1, 6]] = 0
    # 6 maps: 1.5 + 1.0; elements 6 x 36 + 64 = 280: 0.1 + 0.3 x 180 / 252
    assert BY_HAND.predict(space, space.check(genome)) == pytest.approx(2.5 + 0.1 + 0.3 * 180 / 252)
    genome[1:] = 0
    # 1 map, below the grid: as 4 and as 2 maps; elements 36 + 64 = 100
    assert BY_HAND.predict(space, space.check(genome)) == pytest.approx(1.0 + 0.5 + 0.1)


def test_masks_leave_a_share_of_the_time() -> None:
    space = space_of(chain(), strides=True)
    genome = space.full()
    strides = next(genes for genes in space.strides if genes.weight == "2.weight")
    value = next(i for i, mask in enumerate(strides.table) if (mask.start, mask.stride) == (0, 3))
    genome[strides.start : strides.start + 4] = value  # 4 of 8 inputs keep 3 of 9 taps: 2 thirds of the weights
    factor = 0.6 + 0.4 * (2 / 3 - 0.5) / 0.5
    assert BY_HAND.predict(space, space.check(genome)) == pytest.approx(2 + 1.25 * factor + 0.4)


def test_a_table_is_read_back_as_it_was() -> None:
    assert LatencyTable.from_dict(BY_HAND.to_dict()) == BY_HAND


def a_millisecond(calls: Sequence[Callable[[], object]]) -> list[float]:
    for call in calls:
        call()
    return [1e-3] * len(calls)


@pytest.mark.parametrize("strides", [False, True])
def test_a_network_s_table_is_over_the_widths_that_it_can_have(strides: bool) -> None:
    model = chain()
    space = space_of(model, strides)
    table = latency_table(model, space, torch.randn(1, 3, 8, 8), stopwatch=a_millisecond)
    first, second = table.layers
    assert (first.outputs, first.inputs) == ((1, 2, 4, 6, 8), (3,))
    assert (second.outputs, second.inputs) == ((4,), (1, 2, 4, 6, 8))
    assert np.array(second.ms) == pytest.approx(np.ones((1, 5)))
    assert len(table.rest) == 5
    # every call takes a millisecond: the whole network, too, so that the rest of two layers is one less
    assert table.predict(space, space.check(space.full())) == pytest.approx(1.0)


def test_depthwise_layers_are_narrowed_with_their_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)).eval()
    table = latency_table(model, space_of(model), torch.randn(1, 3, 8, 8), stopwatch=a_millisecond)
    assert (table.layers[1].outputs, table.layers[1].inputs) == ((1, 2, 4, 6, 8), (1,))


def test_a_resumed_search_keeps_its_latency_table(tmp_path: Path) -> None:
    settings = {"search.cost": "latency_ms", "search.generations": 1, "retrain.epochs": 0, "retrain.survivors": 1}
    run = tiny_runs.run(tmp_path / "run", settings)
    folder = RunFolder(run.root)
    stored = files.read_json(folder.latency)
    table = LatencyTable.from_dict(stored["table"])
    space = ep.SearchSpace.from_dict(files.read_json(folder.space))
    for row in tiny_runs.rows(run.candidates):
        phenotype = space.check(np.frombuffer(row.genome, dtype=np.uint8))
        assert row.predicted_latency_ms == table.predict(space, phenotype)
    (survivor,) = tiny_runs.rows(run.survivors)
    candidates = run.candidates.set_index("key").predicted_latency_ms
    assert survivor.predicted_latency_ms == candidates[[survivor.key]].iloc[0]
    resumed = ep.resume(run.root, overrides={"search.generations": 2})
    assert files.read_json(folder.latency) == stored
    assert resumed.candidates.predicted_latency_ms.notna().all()


def test_other_searches_predict_nothing(tiny_run: ep.Run) -> None:
    assert tiny_run.candidates.predicted_latency_ms.isna().all()
    assert tiny_run.survivors.predicted_latency_ms.isna().all()
    assert not RunFolder(tiny_run.root).latency.exists()
