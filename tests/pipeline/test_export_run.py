"""`evoprune export`: every survivor of a run as files that other programs read, and what cannot be exported."""

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import ExportError
from evoprune.pipeline import export_run as exporting
from evoprune.surgery import export_formats as export
from tests import tiny_runs


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "exports.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_survivor_in_every_format(tiny_run: ep.Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tiny_run.root), "--out", str(tmp_path), "--quantize", "int8"])
    assert done.exit_code == 0, done.output
    rows = table(tmp_path)
    keys = list(tiny_run.survivors["key"])
    formats = ["safetensors", "torch", "onnx", "onnx int8"]
    assert [(row["key"], row["format"]) for row in rows] == [(key, name) for key in keys for name in formats]
    images, _ = tiny_runs.data(tiny_run).validation.tensors()
    for row in rows:
        assert int(row["bytes"]) == (tmp_path / row["file"]).stat().st_size
        survivor = tiny_run.survivors.set_index("key").loc[row["key"]]
        if row["format"] != "onnx int8":
            assert float(row["mcr_test"]) == pytest.approx(survivor["mcr_test"], abs=2e-3)
            assert float(row["max_difference"]) <= 1e-4
    written = export.onnx_session((tmp_path / f"{keys[0]}.onnx").read_bytes())
    with torch.no_grad():
        expected = tiny_run.load_survivor(keys[0])(images)
    assert torch.allclose(export.onnx_outputs(written, images), expected, atol=1e-3)


def test_the_others_are_exported_when_one_cannot_be(
    tiny_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = tiny_run.survivors["key"]
    load = ep.Run.load_survivor

    class Odd(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            outputs = self.inner(images)
            return outputs if bool(outputs.sum() > -1e9) else -outputs

    def load_odd(run: ep.Run, key: str) -> torch.nn.Module:
        return Odd(load(run, key)).eval() if key == first else load(run, key)

    monkeypatch.setattr(ep.Run, "load_survivor", load_odd)
    with pytest.raises(ExportError, match=f"^1 of {1 + len(others)} survivors could not be exported: {first}: torch"):
        exporting.export_run(tiny_run.root, ["torch"], tmp_path)
    assert {row["key"] for row in table(tmp_path) if row["format"] == "torch"} == set(others)


def test_a_folder_without_survivors_is_one_line(tiny_run: ep.Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((tiny_run.root / "config.yaml").read_bytes())
    (tmp_path / "environment.json").write_bytes((tiny_run.root / "environment.json").read_bytes())
    for command in (["export"], ["bench", "inference"]):
        done = CliRunner().invoke(app, [*command, str(tmp_path)])
        assert done.exit_code == 2
        assert "has no survivors to" in done.output
        assert done.output.count("\n") == 1


def test_an_opset_that_does_not_do_keeps_what_was_written(tiny_run: ep.Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tiny_run.root), "--out", str(tmp_path), "--opset", "999"])
    assert done.exit_code == 2
    assert "--opset must be from 1 to" in done.output
    assert {row["format"] for row in table(tmp_path)} == {"safetensors", "torch"}


def test_eight_bits_without_onnx_is_a_mistake(tiny_run: ep.Run) -> None:
    done = CliRunner().invoke(app, ["export", str(tiny_run.root), "--format", "torch", "--quantize", "int8"])
    assert done.exit_code == 2
    assert "--quantize goes with ONNX" in done.output
