"""`evoprune export`: every survivor of a run as files that other programs read, and what cannot be exported."""

import csv
import json
import logging
import math
import re
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.data.input_format import InputFormat
from evoprune.errors import ConfigError, DataError, ExportError
from evoprune.pipeline import export_run as exporting
from evoprune.record import files
from evoprune.surgery import export_formats as export
from tests import tiny_runs


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "exports.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def exported(tiny_run: ep.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's survivors in every format, which are only read."""
    folder = tmp_path_factory.mktemp("exported")
    done = CliRunner().invoke(app, ["export", str(tiny_run.root), "--out", str(folder), "--quantize", "int8"])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def without_normalisation(tiny_run: ep.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, by option without normalisation."""
    folder = tmp_path_factory.mktemp("without")
    done = CliRunner().invoke(app, ["export", str(tiny_run.root), "--out", str(folder), "--no-normalisation"])
    assert done.exit_code == 0, done.output
    return folder


def test_every_survivor_in_every_format(tiny_run: ep.Run, exported: Path) -> None:
    rows = table(exported)
    keys = list(tiny_run.survivors["key"])
    formats = ["safetensors", "torch", "onnx", "onnx int8"]
    assert [(row["key"], row["format"]) for row in rows] == [(key, name) for key in keys for name in formats]
    for row in rows:
        assert int(row["bytes"]) == (exported / row["file"]).stat().st_size
        survivor = tiny_run.survivors.set_index("key").loc[row["key"]]
        if row["format"] != "onnx int8":
            assert float(row["mcr_test"]) == pytest.approx(survivor["mcr_test"], abs=2e-3)
            assert float(row["max_difference"]) <= 1e-4


class TestWhatExportedNetworksRead:
    """Pixels in 0..1, or normalised images by option; the files say which."""

    @staticmethod
    def raw(tiny_run: ep.Run) -> tuple[torch.Tensor, torch.Tensor]:
        """The test digits as bytes / 255, and their labels."""
        split = tiny_runs.data(tiny_run).test
        pixels = split.images.read(torch.arange(len(split)))
        assert pixels.dtype == torch.uint8
        return pixels.float() / 255, split.targets

    def test_exported_networks_agree_with_survivors_on_raw_pixels(self, tiny_run: ep.Run, exported: Path) -> None:
        pixels, labels = self.raw(tiny_run)
        images, _ = tiny_runs.data(tiny_run).test.tensors()
        for key, mcr_test in zip(tiny_run.survivors["key"], tiny_run.survivors["mcr_test"], strict=True):
            with torch.no_grad():
                expected = tiny_run.load_survivor(key)(images)
                program = torch.export.load(exported / f"{key}.pt2").module()(pixels)
            onnx = export.onnx_outputs(export.onnx_session((exported / f"{key}.onnx").read_bytes()), pixels)
            for outputs in (program, onnx):
                assert torch.allclose(outputs, expected, atol=1e-3)
                assert int((outputs.argmax(1) != labels).sum()) / len(labels) == pytest.approx(mcr_test, abs=1.5e-3)
            int8 = export.onnx_outputs(export.onnx_session((exported / f"{key}.int8.onnx").read_bytes()), pixels)
            assert int((int8.argmax(1) != labels).sum()) / len(labels) == pytest.approx(mcr_test, abs=0.03)

    def test_metadata_of_every_file(self, tiny_run: ep.Run, exported: Path) -> None:
        key = tiny_run.survivors["key"].iloc[0]
        pixels = tiny_runs.data(tiny_run).train.pixels().double()
        files_metadata = {
            "onnx": export.metadata_of((exported / f"{key}.onnx").read_bytes()),
            "int8": export.metadata_of((exported / f"{key}.int8.onnx").read_bytes()),
            "torch": self.program_metadata(exported / f"{key}.pt2"),
            "safetensors": files.read_tensors(exported / f"{key}.safetensors")[1],
            "survivor": files.read_tensors(tiny_run.root / "survivors" / f"{key}.safetensors")[1],
        }
        for name, metadata in files_metadata.items():
            assert json.loads(metadata.pop("mean")) == [pytest.approx(float(pixels.mean()), abs=1e-6)]
            assert json.loads(metadata.pop("std")) == [pytest.approx(float(pixels.std(correction=0)), abs=1e-6)]
            assert metadata == {
                "layout": "NCHW",
                "dtype": "float32",
                "image_shape": "[1, 28, 28]",
                "value_range": "[0.0, 1.0]",
                "colours": "grey",
                "classes": "10",
                "class_names": '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
                "normalisation": "outside" if name in ("safetensors", "survivor") else "inside",
            }

    @staticmethod
    def program_metadata(path: Path) -> dict[str, str]:
        extra = {"deployment.json": ""}
        torch.export.load(path, extra_files=extra)
        found: dict[str, str] = json.loads(extra["deployment.json"])
        return found

    def test_without_normalisation_they_read_normalised_images(
        self, tiny_run: ep.Run, without_normalisation: Path
    ) -> None:
        images, _ = tiny_runs.data(tiny_run).test.tensors()
        key = tiny_run.survivors["key"].iloc[0]
        model = (without_normalisation / f"{key}.onnx").read_bytes()
        with torch.no_grad():
            expected = tiny_run.load_survivor(key)(images)
            program = torch.export.load(without_normalisation / f"{key}.pt2").module()(images)
        assert torch.allclose(export.onnx_outputs(export.onnx_session(model), images), expected, atol=1e-3)
        assert torch.allclose(program, expected, atol=1e-3)
        assert export.metadata_of(model)["normalisation"] == "outside"
        assert self.program_metadata(without_normalisation / f"{key}.pt2")["normalisation"] == "outside"
        operators = [node.op_type for node in onnx.load_from_string(model).graph.node]
        assert not {"Sub", "Div"} & set(operators)


class TestWithoutTheDataSet:
    """The survivors' files say how images were normalised; those of earlier versions need the data set."""

    @pytest.fixture
    def moved(self, tiny_run: ep.Run, tmp_path: Path) -> Path:
        """A copy of the run whose data set is an image folder that is not there."""
        folder = shutil.copytree(tiny_run.root, tmp_path / "moved")
        config = (folder / "config.yaml").read_text()
        changed = config.replace("dataset: mnist5k", "dataset: imagefolder").replace("root: null", "root: nowhere")
        assert changed != config
        (folder / "config.yaml").write_text(changed)
        return folder

    def test_files_are_checked_on_random_images(
        self, tiny_run: ep.Run, moved: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = exporting.export_run(moved, ["onnx"], trusted={"data.root": "nowhere"})
        assert "files are checked on random images, and no MCR is measured: data.root: nowhere" in caplog.text
        assert all(math.isnan(row.mcr_validation) and math.isnan(row.mcr_test) for row in rows)
        assert all(row.max_difference <= 1e-4 for row in rows)
        pixels = tiny_runs.data(tiny_run).test.pixels()[:20]
        images, _ = tiny_runs.data(tiny_run).test.batch(torch.arange(20))
        key = tiny_run.survivors["key"].iloc[0]
        session = export.onnx_session((moved / "export" / f"{key}.onnx").read_bytes())
        with torch.no_grad():
            expected = tiny_run.load_survivor(key)(images)
        assert torch.allclose(export.onnx_outputs(session, pixels), expected, atol=1e-3)

    def test_a_folder_that_is_not_repeated_is_not_read(self, moved: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = exporting.export_run(moved, ["torch"])
        assert re.search("no MCR is measured: .*data.root is nowhere, .* --set data.root=nowhere", caplog.text)
        assert all(math.isnan(row.mcr_validation) for row in rows)

    def test_a_folder_that_has_moved_is_read(self, tiny_run: ep.Run, moved: Path, tmp_path: Path) -> None:
        images = tmp_path / "images"
        for split in ("train", "test"):
            for name in map(str, range(10)):
                (images / split / name).mkdir(parents=True)
        with pytest.raises(DataError, match="images"):  # it has no images, which is noticed
            exporting.export_run(moved, ["torch"], int8=True, trusted={"data.root": str(images)})

    @pytest.mark.parametrize(
        ("trusted", "message"),
        [
            ({"search.population": 8}, r"--set: export takes data\.dataset and data\.root of the run, not search"),
            ({"data.dataset": "mnist"}, r"--set: data\.dataset must be imagefolder, as in the run, not mnist"),
        ],
    )
    def test_only_the_images_are_repeated(self, moved: Path, trusted: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            exporting.export_run(moved, ["torch"], trusted=trusted)

    def test_int8_needs_the_data_set(self, moved: Path) -> None:
        with pytest.raises(DataError, match=r"--quantize needs the calibration images, .*nowhere"):
            exporting.export_run(moved, ["onnx"], int8=True)

    @staticmethod
    def as_earlier_versions_wrote(folder: Path) -> None:
        for path in (folder / "survivors").glob("*.safetensors"):
            tensors, metadata = files.read_tensors(path)
            files.write_tensors(path, tensors, {name: metadata[name] for name in ("image_shape", "classes")})

    def test_files_of_earlier_versions_take_it_from_the_data_set(self, tiny_run: ep.Run, tmp_path: Path) -> None:
        folder = shutil.copytree(tiny_run.root, tmp_path / "earlier")
        self.as_earlier_versions_wrote(folder)
        assert ep.load_run(folder).input_format == InputFormat((1, 28, 28), 10)
        exporting.export_run(folder, ["torch"])
        key = tiny_run.survivors["key"].iloc[0]
        metadata = files.read_tensors(folder / "export" / f"{key}.safetensors")[1]
        assert InputFormat.from_metadata(metadata) == tiny_run.input_format
        assert tiny_run.input_format.mean is not None

    def test_a_missing_input_format_of_an_earlier_version_is_named(self, moved: Path) -> None:
        self.as_earlier_versions_wrote(moved)
        with pytest.raises(DataError, match=r"did not store mean and standard deviation of the images, .*nowhere"):
            exporting.export_run(moved, ["torch"])


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("given", "was made by ep.evolve from a network that its folder does not hold"),
        ("mine:network", r"its network \(mine:network\) is code, which reading a run does not import"),
    ],
)
def test_a_network_that_the_folder_cannot_build_is_one_line(
    tiny_run: ep.Run, tmp_path: Path, network: str, reason: str
) -> None:
    folder = shutil.copytree(tiny_run.root, tmp_path / "run")
    config = (folder / "config.yaml").read_text().replace(f"network: {tiny_runs.NETWORK}", f"network: {network}")
    (folder / "config.yaml").write_text(config)
    with pytest.raises(ExportError, match=reason + r".*; export run\.load_survivor\(key, network=model\)"):
        exporting.export_run(folder)


def test_one_failed_export_does_not_stop_the_others(
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


@pytest.mark.parametrize("version", [pytest.param("999", marks=pytest.mark.slow), "13"])
def test_an_unsupported_opset_is_refused_once_and_a_supported_one_named(
    tiny_run: ep.Run, tmp_path: Path, version: str
) -> None:
    command = ["export", str(tiny_run.root), "--out", str(tmp_path / "out"), "--format", "onnx", "--opset"]
    done = CliRunner().invoke(app, [*command, version])
    assert done.exit_code == 2
    assert done.output.count("--opset") == done.output.count("\n") == 1
    assert not (tmp_path / "out").exists()
    [nearest] = re.findall(r"take (\d+), the", done.output)
    assert CliRunner().invoke(app, [*command, nearest]).exit_code == 0
    assert len(table(tmp_path / "out")) == 2 * len(tiny_run.survivors)


def test_a_lowered_survivor_that_the_opset_cannot_hold_is_exported_as_it_is(
    masked_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = export.onnx_model
    network_of: list[torch.nn.Module] = []

    def refuse_lowered(network: torch.nn.Module, example: torch.Tensor, opset: int | None = None) -> bytes:
        network_of.append(network)
        if opset is not None and len(network_of) % 2 == 0:  # the plain network is written before the lowered one
            raise ExportError("--opset 18 cannot hold an operation of the network (made up)")
        return written(network, example, opset)

    monkeypatch.setattr(export, "onnx_model", refuse_lowered)
    monkeypatch.setattr(export, "check_opset", lambda *_: None)
    monkeypatch.setattr(exporting.Lowered, "forms", property(lambda _: "made up"))
    with caplog.at_level(logging.WARNING):
        exporting.export_run(masked_run.root, ["onnx"], tmp_path, opset=18)
    assert "exported as it is, without lowered convolutions: --opset 18 cannot hold" in caplog.text
    assert {row["forms"] for row in table(tmp_path) if row["format"] == "onnx"} == {""}


def test_survivors_with_the_same_fault_share_one_reason(
    tiny_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise ExportError("made up")

    monkeypatch.setattr(export, "exported_program", refuse)
    keys = tiny_run.survivors["key"]
    with pytest.raises(ExportError, match=f"^{len(keys)} of {len(keys)} .* exported: {', '.join(keys)}: made up$"):
        exporting.export_run(tiny_run.root, ["torch"], tmp_path)


def test_eight_bits_without_onnx_is_a_mistake(tiny_run: ep.Run) -> None:
    done = CliRunner().invoke(app, ["export", str(tiny_run.root), "--format", "torch", "--quantize", "int8"])
    assert done.exit_code == 2
    assert "--quantize goes with ONNX" in done.output
