"""A run's survivors as files for other programs: compacted, lowered, checked against the network that was tested."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.config.loading import refuse_untrusted
from evoprune.data.load import Data, load_data
from evoprune.discovery.proof import relative_difference
from evoprune.errors import ExportError, RunFolderError, first_line
from evoprune.record.csv_tables import write_csv
from evoprune.record.files import write_bytes, write_tensors
from evoprune.record.folder import RunFolder
from evoprune.record.runs import Run, load_run
from evoprune.scoring.scorer import wrong
from evoprune.surgery import export_formats as export
from evoprune.surgery.lowering.lower import Lowered, lower_compacted
from evoprune.surgery.lowering.stopwatch import seconds_a_call

FORMATS = ("onnx", "torch")
TABLE = "exports.csv"

BATCH_SIZE = 250
"""Images a forward pass when networks are compared."""


@dataclass(frozen=True)
class ExportRow:
    """One file. mcr_validation, mcr_test: of what the file computes (fractions). max_difference: of its outputs from
    the survivor's on the validation images, relative to their scale. forms: of the layers that are lowered.
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
    opset: int | None = None,
    int8: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> list[ExportRow]:
    """Exports every survivor of a run, checks each file on the validation images, and writes a table of them.

    formats: onnx (with onnxruntime's static quantisation beside it, where int8), torch (an exported program);
    safetensors of the compacted network are written in any case. out: the folder, `export` in the run's by default.
    report: receives a line a file. A survivor that cannot be exported leaves the others be: at the end, ExportError
    names those and why. Raises RunFolderError where the run has no survivors.
    """
    run = load_run(path)
    if run.survivors.empty:
        raise RunFolderError(f"{path} has no survivors to export; finish the run, or raise search.tolerance")
    for package in ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats else ():
        export.needed(package)
    place = RunFolder(run.root).exported if out is None else Path(out).joinpath
    refuse_untrusted(run.config, run.root / "config.yaml", ("workers.address",))
    data = load_data(run.config.data, run.config.seed)
    rows: list[ExportRow] = []
    failures: list[str] = []
    for key in run.survivors["key"]:
        try:
            for row in _export_survivor(run, key, data, place, formats, opset, int8):
                rows.append(row)
                report(_line(row))
        except ExportError as error:
            failures.append(f"{key}: {error}")
        if rows:
            write_csv(place(TABLE), [asdict(row) for row in rows])
    if failures:
        raise ExportError(
            f"{len(failures)} of {len(run.survivors)} survivors could not be exported: " + "; ".join(failures)
        )
    return rows


def _export_survivor(
    run: Run,
    key: str,
    data: Data,
    place: Callable[[str], Path],
    formats: Collection[str],
    opset: int | None,
    int8: bool,
) -> Iterator[ExportRow]:
    """Writes one survivor's files, one after the other; `place` gives the path of a file by its name.

    Raises ExportError that names the part that is in the way.
    """
    small, masks = run.load_survivor(key), run.survivor_masks(key)
    images, _ = data.validation.tensors()
    example = images[:2].clone()
    expected = _outputs(small, images)
    lowered = lower_compacted(small, images[:1], masks)
    check = partial(_row, key, expected, data)
    path = place(f"{key}.safetensors")
    write_tensors(path, small.state_dict(), {})
    yield _same(check("safetensors", path, small, ""))
    if "torch" in formats:
        path = place(f"{key}.pt2")
        write_bytes(path, _naming_the_part(lambda: export.exported_program(lowered.network, example), small, example))
        yield _same(check("torch", path, torch.export.load(path).module(), lowered.forms))
    if "onnx" in formats:
        path = place(f"{key}.onnx")
        model, forms = _naming_the_part(lambda: _fastest_onnx(lowered, small, example, opset), small, example)
        write_bytes(path, model)
        yield _same(check("onnx", path, export.onnx_session(model), forms))
        if int8:
            calibration, _ = data.calibration.tensors()
            small_path, model = place(f"{key}.int8.onnx"), export.quantized(model, calibration)
            write_bytes(small_path, model)
            yield check("onnx int8", small_path, export.onnx_session(model), forms)


def _same(row: ExportRow) -> ExportRow:
    if not row.max_difference <= export.TOLERANCE:
        raise ExportError(f"{row.file} differs from the survivor by {row.max_difference:.1e} of its outputs' scale")
    return row


def _fastest_onnx(lowered: Lowered, small: nn.Module, example: Tensor, opset: int | None) -> tuple[bytes, str]:
    """The ONNX model of the lowered network, or of the plain one, whichever onnxruntime runs faster; and its forms."""
    model = export.onnx_model(lowered.network, example, opset)
    if not lowered.forms:
        return model, ""
    plain = export.onnx_model(lower_compacted(small, example[:1], keep_plain=True).network, example, opset)
    calls = [partial(export.onnx_outputs, export.onnx_session(each), example[:1]) for each in (model, plain)]
    times = seconds_a_call(calls)
    return (model, lowered.forms) if times[0] <= times[1] else (plain, "")


def _naming_the_part(write: Callable[[], Any], network: nn.Module, example: Tensor) -> Any:
    """What `write` returns. Raises its ExportError with the module that is in the way, if it is one."""
    try:
        return write()
    except ExportError as error:
        part = export.failing_part(network, example)
        raise ExportError(f"{error}" + (f", in {part}" if part else "")) from error


def _row(key: str, expected: Tensor, data: Data, format: str, file: Path, network: Any, forms: str) -> ExportRow:
    images, labels = data.validation.tensors()
    test_images, test_labels = data.test.tensors()
    outputs, on_test = _outputs(network, images), _outputs(network, test_images)
    return ExportRow(
        key=key,
        format=format,
        file=file.name,
        bytes=file.stat().st_size,
        mcr_validation=wrong(outputs, labels) / len(labels),
        mcr_test=wrong(on_test, test_labels) / len(test_labels),
        max_difference=relative_difference(expected, outputs),
        forms=forms,
    )


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
    return (
        f"{row.key}  {row.format:<11}  {row.bytes / 1024:8.1f} KiB  MCR {row.mcr_validation:.2%} (test "
        f"{row.mcr_test:.2%})  {row.file}" + (f"  {row.forms}" if row.forms else "")
    )
