"""The commands that turn finished runs into reports and into networks for other tools."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evoprune.cli.options import parsed
from evoprune.errors import ConfigError


class ExportFormat(StrEnum):
    """The formats of `evoprune export`."""

    onnx = "onnx"
    torch = "torch"


class Quantization(StrEnum):
    """The number formats of quantised networks."""

    int8 = "int8"


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders that contain some.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="HTML file of the report of several runs.")] = None,
) -> None:
    """Draw the plots of a run and write its report into its folder, or write one report that compares several runs."""
    from evoprune.record.gather import runs_at
    from evoprune.report.write import write_joint_report, write_report

    runs = runs_at(folders)
    if out is not None:
        path = write_joint_report(runs, out)
    elif len(runs) == 1:
        path = write_report(runs[0])
    else:
        raise ConfigError(f"{len(runs)} runs need a file for their joint report: --out FILE")
    typer.echo(str(path))


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")],
    formats: Annotated[list[ExportFormat] | None, typer.Option("--format", help="Format (default: both).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="OTHER", help="Output folder (default: DIR/export).")] = None,
    quantize: Annotated[
        Quantization | None, typer.Option(help="Also write ONNX models of 8 bits, calibrated on the calibration set.")
    ] = None,
    normalisation: Annotated[
        bool,
        typer.Option(
            help="Normalise inside the exported network, which then reads pixels in 0..1; without it, it reads "
            "(pixel - mean) / std."
        ),
    ] = True,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Version of the ONNX operators.")] = None,
    trusted: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Repeat a key of the run that names code or files (data.dataset, data.root), to have them used.",
        ),
    ] = None,
) -> None:
    """Write all survivors as ONNX models, torch.export programs and safetensors, and check the files.

    ONNX models and programs read pixels in 0..1 as float32 (n, c, h, w) and give logits (n, classes). Mean, standard
    deviation, layout, colour order and class names are in the metadata of every file.
    """
    if quantize is not None and formats is not None and ExportFormat.onnx not in formats:
        raise ConfigError("--quantize goes with ONNX; leave --format out, or add --format onnx")
    repeated = parsed(trusted)
    from evoprune.pipeline.export_run import FORMATS, TABLE, export_run

    wanted = FORMATS if formats is None else tuple(format.value for format in formats)
    export_run(
        folder,
        wanted,
        out,
        normalisation=normalisation,
        opset=opset,
        int8=quantize is not None,
        trusted=repeated,
        report=typer.echo,
    )
    typer.echo(f"table  {(out or folder / 'export') / TABLE}")
