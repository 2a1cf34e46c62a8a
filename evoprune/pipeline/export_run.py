"""A run's survivors as files for other programs: compacted, lowered, checked against the network that was tested."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.config.loading import load_config, refuse_untrusted, trusted_keys
from evoprune.data.input_format import InputFormat
from evoprune.data.load import Data, load_data
from evoprune.discovery.proof import relative_difference
from evoprune.errors import ConfigError, DataError, ExportError, RunFolderError, first_line
from evoprune.pipeline.configured import configured_task
from evoprune.plugins.guard import is_own
from evoprune.record.csv_tables import write_csv
from evoprune.record.files import write_bytes, write_tensors
from evoprune.record.folder import RunFolder
from evoprune.record.places import local_path
from evoprune.record.runs import Run, load_run
from evoprune.surgery import export_formats as export
from evoprune.surgery.lowering.lower import Lowered, lower_compacted
from evoprune.surgery.lowering.stopwatch import seconds_a_call
from evoprune.tasks.judging import count_errors_of
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree

FORMATS = ("onnx", "torch")
TABLE = "exports.csv"

BATCH_SIZE = 250
"""Images per forward pass when networks are compared."""

RANDOM_IMAGES = 64
"""Number of images that files are checked on if the data set cannot be read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportRow:
    """One file.

    Attributes:
        key: The survivor.
        format: `safetensors`, `torch`, `onnx` or `onnx int8`.
        file: Its name.
        bytes: Its size.
        mcr_validation: MCR of what the file computes on the validation images, a fraction; NaN without the data set.
        mcr_test: The same on the test images.
        max_difference: Largest difference of its outputs from the survivor's, relative to their scale.
        forms: Layers that are lowered, with their forms.
    """

    key: str
    format: str
    file: str
    bytes: int
    mcr_validation: float
    mcr_test: float
    max_difference: float
    forms: str


def export_run(
    path: str | Path,
    formats: Collection[str] = FORMATS,
    out: str | Path | None = None,
    *,
    normalisation: bool = True,
    opset: int | None = None,
    int8: bool = False,
    trusted: Mapping[str, object] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[ExportRow]:
    """Exports every survivor of a run, checks what each file computes, and writes a table of the files.

    The files say what they read (mean, standard deviation, layout, colour order, range, class names): the ONNX models
    in their `metadata_props`, the exported programs in the extra file `deployment.json`, the safetensors in their
    header. If the data set cannot be read, files are checked on random images, and the table has no MCR.

    Args:
        path: The run folder.
        formats: `onnx`, `torch` (an exported program), or both; safetensors of the compacted network, which read
            normalised images, are always written.
        out: Folder of the files, `export` in the run folder by default.
        normalisation: Put the normalisation into the exported network, which then reads pixels (n, c, h, w) in 0..1;
            otherwise it reads normalised images.
        opset: Version of the ONNX operators; None: the one that torch writes best.
        int8: Also write ONNX models of 8 bits, calibrated on the calibration images.
        trusted: The run's data.dataset, if it is code, and data.root, if it is set, repeated by whoever trusts them:
            the run folder may come from somebody else. The folder of the data may have moved.
        report: Receives a line per file.

    Returns:
        One row per file.

    Raises:
        RunFolderError: If the run has no survivors.
        ConfigError: If `trusted` has another key, or another data set.
        ExportError: If survivors could not be exported; it names them all, and the others are written.
        DataError: If int8 is wanted and the data set cannot be read, or nothing says how images were normalised.
    """
    run = load_run(path)
    if run.survivors.empty:
        raise RunFolderError(f"{path} has no survivors to export; finish the run, or raise search.tolerance")
    for package in ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats else ():
        export.needed(package)
    _check_network(run)
    _check_repeated(run, trusted or {})
    exporter = _Exporter(
        run,
        place=RunFolder(run.root).exported if out is None else local_path(out).joinpath,
        formats=formats,
        opset=opset,
        int8=int8,
        images=_images(run, trusted or {}, normalisation, int8),
    )
    if opset is not None and "onnx" in formats:
        exporter.check_opset(run.survivors["key"].iloc[0])
    rows: list[ExportRow] = []
    failures: dict[str, list[str]] = {}
    for key in run.survivors["key"]:
        try:
            for row in exporter.write(key):
                rows.append(row)
                report(_line(row))
        except ExportError as error:
            failures.setdefault(str(error), []).append(key)
        if rows:
            write_csv(exporter.place(TABLE), [asdict(row) for row in rows])
    if failures:
        reasons = "; ".join(f"{', '.join(keys)}: {reason}" for reason, keys in failures.items())
        failed = sum(map(len, failures.values()))
        raise ExportError(f"{failed} of {len(run.survivors)} survivors could not be exported: {reasons}")
    return rows


def _check_network(run: Run) -> None:
    """Raises ExportError if the run's network cannot be built from the folder alone."""
    name = run.config.model.network
    if name == "given":
        raise ExportError(
            f"{run.root} was made by ep.evolve from a network that its folder does not hold; "
            "export run.load_survivor(key, network=model) with torch.export or torch.onnx"
        )
    if "model.network" in trusted_keys(run.config):
        raise ExportError(
            f"{run.root}: its network ({name}) is code, which reading a run does not import; "
            "export run.load_survivor(key, network=model) with torch.export or torch.onnx"
        )


def _check_repeated(run: Run, trusted: Mapping[str, object]) -> None:
    """Raises ConfigError for a key that says nothing about the run's images."""
    for key, value in trusted.items():
        if key not in ("data.dataset", "data.root"):
            raise ConfigError(f"--set: export takes data.dataset and data.root of the run, not {key}")
        if key == "data.dataset" and value != run.config.data.dataset:
            raise ConfigError(f"--set: data.dataset must be {run.config.data.dataset}, as in the run, not {value}")


def _images(run: Run, trusted: Mapping[str, object], normalisation: bool, int8: bool) -> "_Images":
    """The run's images. Raises DataError if something is needed that only the data set tells."""
    inputs = run.input_format
    try:
        data = _data(run, trusted)
    except DataError as error:
        if inputs.mean is None or inputs.std is None:
            raise DataError(
                f"{run.root} was written by an earlier version, which did not store mean and standard deviation of "
                f"the images, and the data set cannot be read ({error})"
            ) from error
        if int8:
            raise DataError(f"--quantize needs the calibration images, which cannot be read ({error})") from error
        _log.warning("files are checked on random images, and no MCR is measured: %s", error)
        return _Images(inputs, None, normalisation, None)
    known = inputs if inputs.mean is not None else data.input_format
    has_targets = data.validation.targets is not None
    task = configured_task(run.config).fitted(data.validation.targets) if has_targets else None
    return _Images(known, data, normalisation, task)


def _data(run: Run, trusted: Mapping[str, object]) -> Data:
    """The run's data set. Raises DataError if the folder names code or files for it that are not trusted."""
    path = run.root / "config.yaml"
    unused = trusted_keys(run.config).keys() - {"data.dataset", "data.root"}
    try:
        refuse_untrusted(run.config, path, trusted, unused)
    except ConfigError as error:
        raise DataError(str(error)) from error
    if is_own(run.config.task):
        raise DataError(f"task: {run.config.task} is code, which reading a run does not import")
    return load_data(load_config(path, trusted).data, run.config.seed, configured_task(run.config))


@dataclass(frozen=True, eq=False)
class _Images:
    """Images that files are checked on. inputs: with mean and std. data: None if it cannot be read.

    normalisation: whether exported networks normalise pixels themselves. task: None if there are no targets.
    """

    inputs: InputFormat
    data: Data | None
    normalisation: bool
    task: Task | None

    @cached_property
    def pixels(self) -> Tensor:
        """The validation images before normalisation, or random ones: float32 (n, c, h, w)."""
        if self.data is not None:
            return self.data.validation.pixels()
        low, high = self.inputs.value_range or (0.0, 1.0)
        generator = torch.Generator().manual_seed(0)
        return low + (high - low) * torch.rand(RANDOM_IMAGES, *self.inputs.image_shape, generator=generator)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The input of the survivor: pixels with the mean 0 and the deviation 1 of the training images."""
        mean, std = self._statistics
        return (pixels - mean[:, None, None]) / std[:, None, None]

    def as_read(self, pixels: Tensor) -> Tensor:
        """The input of the exported network."""
        return pixels if self.normalisation else self.normalised(pixels)

    def deployed(self, network: nn.Module) -> nn.Module:
        """The network as it is exported."""
        return export.Normalised(network, *self._statistics).eval() if self.normalisation else network

    @property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, float32 (c,)."""
        assert self.inputs.mean is not None
        assert self.inputs.std is not None
        return torch.tensor(self.inputs.mean), torch.tensor(self.inputs.std)


@dataclass(frozen=True, eq=False)
class _Exporter:
    """Writes and checks survivors' files. place: the path of a file by its name."""

    run: Run
    place: Callable[[str], Path]
    formats: Collection[str]
    opset: int | None
    int8: bool
    images: _Images

    def check_opset(self, key: str) -> None:
        """Tries on a survivor whether the version of the ONNX operators can hold the run's plain networks.

        Raises:
            ExportError: With the nearest version that can.
        """
        if self.opset is not None:
            example = self.images.pixels[:2].clone()
            plain = self._plain(self.run.load_survivor(key), example)
            export.check_opset(plain, self.images.as_read(example), self.opset)

    def write(self, key: str) -> Iterator[ExportRow]:
        """Writes one survivor's files, one after the other. Raises ExportError that names the part in the way."""
        images, inputs = self.images, self.images.inputs
        small, masks = self.run.load_survivor(key), self.run.survivor_masks(key)
        example = images.pixels[:2].clone()
        normalised = images.normalised(example)
        lowered = lower_compacted(small, normalised[:1], masks)
        check = partial(self._row, key, _outputs(small, images.normalised(images.pixels)))
        metadata = inputs.to_metadata(images.normalisation)
        path = self.place(f"{key}.safetensors")
        write_tensors(path, small.state_dict(), inputs.to_metadata(normalisation_inside=False))
        yield _same(check("safetensors", path, small, images.normalised, ""))
        if "torch" in self.formats:
            path = self.place(f"{key}.pt2")
            make = partial(export.exported_program, images.deployed(lowered.network), images.as_read(example), metadata)
            write_bytes(path, _naming_the_part(make, small, normalised))
            yield _same(check("torch", path, torch.export.load(path).module(), images.as_read, lowered.forms))
        if "onnx" in self.formats:
            path = self.place(f"{key}.onnx")
            fastest = partial(self._fastest_onnx, lowered, small, example)
            model, forms = _naming_the_part(fastest, small, normalised)
            model = export.with_metadata(model, metadata)
            write_bytes(path, model)
            yield _same(check("onnx", path, export.onnx_session(model), images.as_read, forms))
            if self.int8:
                assert images.data is not None
                path = self.place(f"{key}.int8.onnx")
                model = export.quantized(model, images.as_read(images.data.calibration.pixels()))
                write_bytes(path, model)
                yield check("onnx int8", path, export.onnx_session(model), images.as_read, forms)

    def _fastest_onnx(self, lowered: Lowered, small: nn.Module, example: Tensor) -> tuple[bytes, str]:
        """The ONNX model of the lowered or the plain network, whichever onnxruntime runs faster; and its forms."""
        images = self.images
        read = images.as_read(example)
        if not lowered.forms:
            return export.onnx_model(images.deployed(lowered.network), read, self.opset), ""
        plain = export.onnx_model(self._plain(small, example), read, self.opset)
        try:
            model = export.onnx_model(images.deployed(lowered.network), read, self.opset)
        except ExportError as error:
            _log.warning("a survivor is exported as it is, without lowered convolutions: %s", error)
            return plain, ""
        calls = [partial(export.onnx_outputs, export.onnx_session(each), read[:1]) for each in (model, plain)]
        times = seconds_a_call(calls)
        return (model, lowered.forms) if times[0] <= times[1] else (plain, "")

    def _plain(self, small: nn.Module, example: Tensor) -> nn.Module:
        """A survivor as it is exported without lowered convolutions."""
        unlowered = lower_compacted(small, self.images.normalised(example[:1]), keep_plain=True).network
        return self.images.deployed(unlowered)

    def _row(
        self,
        key: str,
        expected: Tensor,
        format: str,
        file: Path,
        network: Any,
        inputs_of: Callable[[Tensor], Tensor],
        forms: str,
    ) -> ExportRow:
        """A file's row. expected: the survivor's logits. inputs_of: what the network in the file reads, of pixels."""
        outputs = _outputs(network, inputs_of(self.images.pixels))
        mcr_validation = mcr_test = math.nan
        data, task = self.images.data, self.images.task
        if data is not None and task is not None:
            mcr_validation = _mcr(task, outputs, data.validation.targets)
            mcr_test = _mcr(task, _outputs(network, inputs_of(data.test.pixels())), data.test.targets)
        return ExportRow(
            key=key,
            format=format,
            file=file.name,
            bytes=file.stat().st_size,
            mcr_validation=mcr_validation,
            mcr_test=mcr_test,
            max_difference=relative_difference(expected, outputs),
            forms=forms,
        )


def _mcr(task: Task, outputs: Tensor, targets: Tree) -> float:
    return count_errors_of(task, outputs, targets) / len(outputs)


def _same(row: ExportRow) -> ExportRow:
    if not row.max_difference <= export.TOLERANCE:
        raise ExportError(f"{row.file} differs from the survivor by {row.max_difference:.1e} of its outputs' scale")
    return row


def _naming_the_part(write: Callable[[], Any], network: nn.Module, example: Tensor) -> Any:
    """The result of `write`. Raises its ExportError with the module that is in the way, if it is one."""
    try:
        return write()
    except ExportError as error:
        part = export.failing_part(network, example)
        raise ExportError(f"{error}" + (f", in {part}" if part else "")) from error


def _outputs(network: Any, images: Tensor) -> Tensor:
    """Logits of a torch module or an ONNX session. Returns (n, classes)."""
    if not isinstance(network, nn.Module):
        return export.onnx_outputs(network, images)
    try:
        with torch.inference_mode():
            return torch.cat([network(batch) for batch in images.split(BATCH_SIZE)])
    except Exception as error:
        raise ExportError(f"the exported network does not run ({first_line(error)})") from error


def _line(row: ExportRow) -> str:
    mcr = "" if math.isnan(row.mcr_validation) else f"  MCR {row.mcr_validation:.2%} (test {row.mcr_test:.2%})"
    forms = f"  {row.forms}" if row.forms else ""
    return f"{row.key}  {row.format:<11}  {row.bytes / 1024:8.1f} KiB{mcr}  {row.file}{forms}"
