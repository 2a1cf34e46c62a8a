"""The benchmark of whole networks: its tables and picture, and the paper's measure, on a tiny run."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.bench import inference, timing
from evoprune.bench.inference import SpeedRow, bench_inference
from evoprune.bench.layer_speeds import _product, layer_speeds
from evoprune.record.csv_tables import read_csv, write_csv


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(inference, "BATCHES", (2,))


def test_rows_of_a_run_are_replaced_and_others_stay(tiny_run: ep.Run, tmp_path: Path) -> None:
    out = tmp_path / "speed.csv"
    of_another = dict.fromkeys((field.name for field in fields(SpeedRow)), "1") | {"run": "another", "runtime": "torch"}
    write_csv(out, [of_another, of_another | {"run": tiny_run.config.name}])
    told: list[str] = []
    first, *rows = bench_inference([tiny_run.root], out, 1e-4, told.append, threads=[1])
    assert first == of_another
    survivors = len(tiny_run.survivors)
    assert len(rows) == len(told) == survivors * 2  # runtimes
    assert {(row["runtime"], row["batch"]) for row in rows} == {("torch", 2), ("onnxruntime", 2)}
    for row in rows:
        assert row["speedup"] == pytest.approx(row["baseline_ms"] / row["survivor_ms"], rel=0.01)
    another, *table = read_csv(out, ["run"])
    assert another == of_another
    assert len(table) == len(rows)
    assert all(bool(row["paper_layer_speedup"]) == (row["runtime"] == "torch") for row in table)
    layers = read_csv(tmp_path / "speed_layers.csv", ["layer"])
    assert [row["layer"] for row in layers[:4]] == ["conv1", "conv2", "fc1", "out"]
    assert len(layers) == survivors * 4
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_product_leaves_out_columns_that_no_output_reads() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    mask = torch.ones_like(conv.weight, dtype=torch.bool)
    mask[:, 0] = False  # a map that is not read
    mask[:, 1, :, 1:] = False  # one of three columns
    conv.weight.data *= mask
    values = torch.randn(2, 4, 5, 5)
    product = _product(conv, mask, values)
    weight, columns = product.args
    assert weight.shape == (1, 6, 3 + 9 + 9)
    assert columns.shape == (1, 21, 2 * 5 * 5)
    expected = conv(values).movedim(1, 0).reshape(6, -1)
    assert torch.allclose(product()[0], expected, atol=1e-5)


def test_layers_are_measured_under_their_names() -> None:
    baseline = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)).eval()
    survivor = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3)).eval()
    conv, linear = layer_speeds(baseline, survivor, {}, torch.randn(1, 1, 6, 6), 1, 1e-4)
    assert (conv.layer, conv.macs_ratio, linear.layer, linear.macs_ratio) == ("0", 0.5, "3", 0.5)
    assert conv.paper_speedup is not None
    assert linear.paper_speedup is None
