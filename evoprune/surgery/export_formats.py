"""Networks in formats that other programs read: ONNX, and exported programs of PyTorch."""

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.errors import ExportError, first_line
from evoprune.surgery.recording import recorded

INPUT, OUTPUT = "images", "logits"

EXTRA_FILE = "deployment.json"
"""Name of the metadata in an exported program, for `torch.export.load(path, extra_files={"deployment.json": ""})`."""

OLDEST_OPSET = 18
"""The oldest version of ONNX operators that torch writes itself; models are converted to older ones."""

TOLERANCE = 1e-4
"""Largest difference of an exported network's outputs, relative to their scale."""


class Normalised(nn.Module):
    """A network that reads pixels and normalises them first, channel by channel: (pixel - mean) / std.

    Args:
        network: Reads normalised images (n, c, h, w).
        mean: float (c,).
        std: float (c,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean[:, None, None].clone())
        self.register_buffer("std", std[:, None, None].clone())

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float (n, c, h, w), not normalised. Returns the network's outputs."""
        return self.network((pixels - self.mean) / self.std)


def onnx_model(network: nn.Module, example: Tensor, opset: int | None = None) -> bytes:
    """The network as an ONNX model for any number of images.

    Args:
        network: In eval mode.
        example: float (batch, c, h, w), two images or more.
        opset: Version of the ONNX operators; None: the one that torch writes best.

    Returns:
        The serialised model; its input is named `images`, its output `logits`.

    Raises:
        ExportError: If a package is missing, or ONNX or the version has no operation for a part of the network.
    """
    needed("onnxscript")
    if opset is None:
        return _written(network, example, None).SerializeToString()
    newest = _newest_opset()
    if not 1 <= opset <= newest:
        raise ExportError(f"--opset must be from 1 to {newest}, the newest of the onnx package here, not {opset}")
    return _converted(_written(network, example, max(opset, OLDEST_OPSET)), opset)


def check_opset(network: nn.Module, example: Tensor, opset: int) -> None:
    """Tries whether a version of the ONNX operators can hold a network, and whether onnxruntime runs the model.

    A network that no version can hold passes, because the version is not at fault.

    Args:
        network: In eval mode.
        example: float (batch, c, h, w), two images or more.
        opset: Version of the ONNX operators.

    Raises:
        ExportError: With the nearest version that can, found by trying.
    """
    refusal = _refusal(partial(onnx_model, network, example, opset))
    if refusal is None or _refusal(partial(onnx_model, network, example)) is not None:
        return
    written = cache(partial(_written, network, example))

    def is_refused(version: int) -> bool:
        return _refusal(lambda: _converted(written(max(version, OLDEST_OPSET)), version)) is not None

    usual = _opset(written(None))
    is_older = opset < usual
    others = range(max(opset + 1, 1), usual) if is_older else range(min(opset - 1, _newest_opset()), usual, -1)
    nearest = next((version for version in others if not is_refused(version)), usual)
    raise ExportError(f"{refusal}; take {nearest}, the {'oldest' if is_older else 'newest'} that works")


def _refusal(make: Callable[[], bytes]) -> ExportError | None:
    """The error of making a model and loading it in onnxruntime; None if there is none."""
    try:
        onnx_session(make())
    except ExportError as error:
        return error
    return None


def _written(network: nn.Module, example: Tensor, opset: int | None) -> Any:
    """The model as torch writes it, in this version of the operators or another one. Raises ExportError."""
    program = _program(network, example)
    with _quiet():
        try:
            written = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, opset_version=opset
            )  # fmt: skip
        except Exception as error:
            raise ExportError(f"ONNX has no operation for a part of the network ({first_line(error)})") from error
    assert written is not None
    return written.model_proto


def _converted(model: Any, opset: int) -> bytes:
    """The model in this version of the operators. Raises ExportError if the version has no such operations."""
    onnx = needed("onnx")
    if opset != _opset(model):
        try:
            model = onnx.version_converter.convert_version(model, opset)
            onnx.checker.check_model(model)
        except Exception as error:  # the converter's own assertions
            raise ExportError(f"--opset {opset} cannot hold an operation of the network ({_reason(error)})") from error
    return model.SerializeToString()


def with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """An ONNX model with these entries in its `metadata_props`."""
    onnx = needed("onnx")
    proto = onnx.load_from_string(model)
    onnx.helper.set_model_props(proto, dict(metadata))
    return proto.SerializeToString()


def exported_program(network: nn.Module, example: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """The network as torch.export.save writes it, for any number of images.

    Args:
        network: In eval mode.
        example: float (batch, c, h, w), two images or more.
        metadata: Stored as JSON in the program's extra file `deployment.json`; None: without it.

    Raises:
        ExportError: If torch.export cannot take the network.
    """
    buffer = io.BytesIO()
    program = _program(network, example)
    extra = None if metadata is None else {EXTRA_FILE: json.dumps(metadata, indent=1)}
    with _quiet():
        torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def onnx_session(model: bytes, threads: int = 1) -> Any:
    """An ONNX model in onnxruntime on the CPU. Raises ExportError if it cannot be run."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime cannot run the exported network ({first_line(error)})") from error


def onnx_outputs(session: Any, images: Tensor, batch_size: int = 250) -> Tensor:
    """The logits (n, classes) of an ONNX session. images: float (n, c, h, w)."""
    batches = (session.run(None, {INPUT: batch.numpy()})[0] for batch in images.split(batch_size))
    return torch.from_numpy(np.concatenate(list(batches)))


def quantized(model: bytes, calibration: Tensor, batch_size: int = 32) -> bytes:
    """An ONNX model with weights and activations in bytes, by static quantisation of onnxruntime.

    Only 7 bits of a weight's byte are used, because processors without VNNI add two products of 8 bits in 16 bits,
    which overflow.

    Args:
        model: The ONNX model; its metadata are kept.
        calibration: float (n, c, h, w), what the model reads for calibration images: the ranges of activations.
        batch_size: Images per forward pass.
    """
    needed("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(calibration.split(batch_size))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, prepared, after = (Path(folder) / name for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        before.write_bytes(model)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
        )
        return with_metadata(after.read_bytes(), metadata_of(model))


def metadata_of(model: bytes) -> dict[str, str]:
    """The `metadata_props` of an ONNX model."""
    proto = needed("onnx").load_from_string(model)
    return {entry.key: entry.value for entry in proto.metadata_props}


def failing_part(network: nn.Module, example: Tensor) -> str:
    """The name of the innermost module that torch.export cannot take; "" if it is the network as a whole."""
    inputs = recorded(network, [name for name, _ in network.named_modules()], (example,))
    return _failing_child(network, "", inputs)


def _failing_child(module: nn.Module, prefix: str, inputs: dict[str, tuple[Any, ...]]) -> str:
    for child_name, child in module.named_children():
        name = f"{prefix}.{child_name}" if prefix else child_name
        try:
            with _quiet():
                if name in inputs:
                    torch.export.export(child, inputs[name])
        except Exception:
            return _failing_child(child, name, inputs)
    return prefix


def needed(package: str) -> ModuleType:
    """A package of the extra `export`. Raises ExportError if it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ExportError(f"export needs the package {package}; pip install 'evoprune[export]'") from error


def _program(network: nn.Module, example: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        try:
            return torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        except Exception as error:  # whatever the user's forward raises
            raise ExportError(f"torch.export cannot take it ({first_line(error)})") from error


def _newest_opset() -> int:
    newest: int = needed("onnx").defs.onnx_opset_version()
    return newest


def _opset(model: Any) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _reason(error: Exception) -> str:
    """The message of an assertion of the converter, without its place in the sources."""
    return first_line(error).rpartition("failed: ")[2]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters' own messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
