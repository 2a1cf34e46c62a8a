"""What is left of each layer, against networks that are masked and counted."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.networks.zoo import build_network
from evoprune.record.layer_tables import (
    KEPT_DTYPES,
    LAYER_DTYPES,
    STRIDE_DTYPES,
    kept_by_generation,
    layers_frame,
    stride_masks_frame,
)
from evoprune.space.cost import cost
from tests import tiny_runs

NETWORK = "4C3-6C3-MP2-8FC-3"


def network() -> nn.Module:
    return build_network(NETWORK, (1, 8, 8), 3, torch.Generator().manual_seed(1)).eval()


def space(feature_maps: bool = True, kernels: bool = False, strides: bool = False) -> ep.SearchSpace:
    return ep.search_space(
        network(), torch.zeros(1, 1, 8, 8), feature_maps=feature_maps, kernels=kernels, strides=strides
    )


def test_by_hand() -> None:
    plan = space()
    genome = plan.full()
    genome[plan.groups[0].genes] = [1, 0, 1, 0]
    frame = layers_frame(plan, plan, {"ab": genome}, {"ab": {"conv1": 0.5}}, {"conv1": 1.0, "conv2": 2.0})
    counted = ["maps", "maps_kept", "kernels", "kernels_kept", "taps", "taps_kept", "macs", "baseline_macs"]
    assert frame[frame["layer"] == "conv1"][counted].iloc[0].tolist() == [4, 2, 4, 2, 36, 18, 18 * 64, 36 * 64]
    assert frame[frame["layer"] == "conv2"][counted].iloc[0].tolist() == [6, 6, 24, 12, 216, 108, 108 * 64, 216 * 64]
    assert frame["layer"].tolist() == ["conv1", "conv2", "fc1", "out"]
    assert frame["latency_ms"].tolist() == [0.5, pd.NA, pd.NA, pd.NA]
    assert frame["baseline_latency_ms"].tolist() == [1.0, 2.0, pd.NA, pd.NA]


def test_masks_of_every_granularity_are_counted_as_the_masked_weights_are() -> None:
    plan = space(feature_maps=True, kernels=True, strides=True)
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)  # so that zeros are what a mask has put there
    for seed in range(5):
        genome = plan.random(np.random.default_rng(seed), keep=0.6)
        frame = layers_frame(plan, plan, {"ab": genome}, {}, {}).set_index("layer")
        small = ep.compact(model, plan, genome)
        for layer in plan.layers:
            weight = (
                small.get_parameter(layer.weight).flatten(2) if layer.taps > 1 else small.get_parameter(layer.weight)
            )
            weight = weight[..., None] if weight.ndim == 2 else weight
            row = frame.loc[layer.name]
            assert row["maps_kept"] == weight.shape[0]
            assert row["kernels_kept"] == int(weight.any(dim=2).sum())
            assert row["taps_kept"] == int(weight.count_nonzero())
        assert frame["macs"].sum() == cost(plan, genome).macs
        masks = stride_masks_frame(plan, {"ab": genome})
        alive = {
            layer: small.get_parameter(f"{layer}.weight").flatten(2).any(dim=2).any(dim=0)
            for layer in ("conv1", "conv2")
        }
        assert masks.groupby("layer")["masks"].sum().to_dict() == {
            name: int(maps.sum()) for name, maps in alive.items()
        }


def test_stride_masks_by_hand() -> None:
    plan = space(feature_maps=False, strides=True)
    genome = plan.full()
    second = plan.strides[1]
    column = [mask.stride == 3 and mask.start == 1 for mask in second.table].index(True)
    genome[second.genes] = [0, column, column, 0]
    assert stride_masks_frame(plan, {"ab": genome}).to_dict("split")["data"] == [
        ["ab", "conv1", 0, 1, 3, 3, 1],
        ["ab", "conv2", 0, 1, 3, 3, 2],
        ["ab", "conv2", 1, 3, 3, 3, 2],
    ]


def test_the_share_that_the_front_keeps_by_generation() -> None:
    plan = space()
    half, quarter = plan.full(), plan.full()
    half[plan.groups[0].genes] = [1, 1, 0, 0]
    quarter[plan.groups[0].genes] = [1, 0, 0, 0]
    rows = [
        (0, plan.full(), 0.1, 30),
        (1, half, 0.2, 20),
        (2, quarter, 0.2, 10),
        (2, plan.random(np.random.default_rng(0)), 0.9, 5),
    ]
    candidates = pd.DataFrame(
        {
            "generation": [row[0] for row in rows],
            "key": [plan.key(row[1]) for row in rows],
            "genome": [row[1].tobytes() for row in rows],
            "mcr": [row[2] for row in rows],
            "macs": [row[3] for row in rows],
            "feasible": pd.Series([True, True, True, False], dtype="boolean"),
        }
    )
    kept = kept_by_generation(plan, candidates, "macs").pivot(
        index="generation", columns="layer", values="kept_fraction"
    )
    # the whole network alone; then half beside it; then a quarter, which beats half
    assert kept["conv1"].tolist() == [1.0, 0.5, 0.25]
    assert kept["conv2"].tolist() == [1.0, 0.5, 0.25]
    assert kept["out"].tolist() == [1.0, 1.0, 1.0]


class TestOfARun:
    def test_layers_add_up_to_the_survivors_and_are_timed(self, tiny_run: ep.Run) -> None:
        layers = tiny_run.layers
        assert (tiny_run.root / "layers.parquet").is_file()
        assert {name: str(dtype) for name, dtype in layers.dtypes.items()} == LAYER_DTYPES
        by_survivor = layers.groupby("key")["macs"].sum()
        assert by_survivor.to_dict() == dict(zip(tiny_run.survivors["key"], tiny_run.survivors["macs"], strict=True))
        assert layers.groupby("key")["baseline_macs"].sum().unique().tolist() == [tiny_runs.WHOLE_MACS]
        assert (layers[["latency_ms", "baseline_latency_ms"]] > 0).all(axis=None)

    def test_a_run_without_the_file_has_them_without_times(self, tiny_run: ep.Run, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny_run.root, tmp_path / "copy")
        (copy / "layers.parquet").unlink()
        times = ["latency_ms", "baseline_latency_ms"]
        layers = ep.load_run(copy).layers
        pd.testing.assert_frame_equal(layers.drop(columns=times), tiny_run.layers.drop(columns=times))
        assert layers[times].isna().all(axis=None)

    def test_a_run_that_is_not_done_has_none(self, tiny_run: ep.Run, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny_run.root, tmp_path / "copy")
        (copy / "survivors.parquet").unlink()
        run = ep.load_run(copy)
        assert run.layers.empty
        assert list(run.layers) == list(LAYER_DTYPES)
        assert list(run.stride_masks) == list(STRIDE_DTYPES)
        assert len(run.kept_by_generation) == 4 * len(run.space.layers)

    def test_the_front_moves_and_everything_begins_whole(self, tiny_run: ep.Run) -> None:
        kept = tiny_run.kept_by_generation
        assert {name: str(dtype) for name, dtype in kept.dtypes.items()} == KEPT_DTYPES
        assert kept["kept_fraction"].between(0, 1).all()
        volumes = tiny_run.generations["hypervolume"]
        assert volumes.is_monotonic_increasing
        assert 0 < volumes.iloc[-1] < 1

    def test_the_corner_is_the_unpruned_networks(self, tiny_run: ep.Run) -> None:
        corner = tiny_run.corner
        assert corner is not None
        assert (corner.column, corner.cost) == ("macs", tiny_runs.WHOLE_MACS)
        assert tiny_run.baseline_point == (tiny_runs.WHOLE_MACS, pytest.approx(corner.mcr - 0.1))
