"""Networks in other programs' formats: what onnxruntime computes is what torch does, for any number of images."""

import io
import re
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.discovery.proof import relative_difference
from evoprune.errors import ExportError
from evoprune.surgery import export_formats as export
from evoprune.surgery.lowering.lower import lower
from tests.space.masked import masked_space, network_of
from tests.surgery.lowering.test_lower import ReadsValues, last_is_fastest, masked_chain, outputs

IMAGES = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def opset(model: bytes) -> int:
    return int(onnx.load_from_string(model).opset_import[0].version)


@pytest.mark.parametrize(
    "name",
    [
        "depthwise",
        pytest.param("residual", marks=pytest.mark.slow),
        pytest.param("concatenating", marks=pytest.mark.slow),
    ],
)
def test_lowered_networks_go_through_onnx(name: str) -> None:
    space, model = masked_space(name), network_of(name)
    genome = space.random(np.random.default_rng(0), 0.6)
    lowered = lower(model, space, genome, IMAGES[:1], stopwatch=last_is_fastest)
    session = export.onnx_session(export.onnx_model(lowered, IMAGES[:2]))
    masked = outputs(ep.mask(model, space, genome), IMAGES)
    assert relative_difference(masked, export.onnx_outputs(session, IMAGES, batch_size=3)) <= 1e-4


def chain() -> nn.Module:
    return masked_chain()[0].float().eval()


def test_a_program_is_loaded_back() -> None:
    model = chain()
    program = torch.export.load(io.BytesIO(export.exported_program(model, IMAGES[:2])))
    assert relative_difference(outputs(model, IMAGES), outputs(program.module(), IMAGES)) <= 1e-6


def test_the_operators_version_is_the_one_asked_for() -> None:
    assert opset(export.onnx_model(chain(), IMAGES[:2], 19)) == 19
    assert opset(export.onnx_model(chain(), IMAGES[:2], 17)) == 17  # older than what torch writes: converted


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (9, "--opset 9 cannot hold an operation of the network (.+)$"),
        (999, "--opset must be from 1 to"),
    ],
)
def test_a_version_that_does_not_do_is_named(version: int, complaint: str) -> None:
    with pytest.raises(ExportError, match=complaint.replace("(.+)", r"\(.+\)")) as caught:
        export.onnx_model(chain(), IMAGES[:2], version)
    assert "\n" not in str(caught.value)


def averaging(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


@pytest.mark.parametrize(
    ("network", "version", "nearest", "word"),
    [
        (chain(), 13, 14, "oldest"),  # ReLU as torch writes it is of version 14
        # so is a mean over given axes of 18
        pytest.param(averaging(nn.ReLU()), 14, 18, "oldest", marks=pytest.mark.slow),
        pytest.param(averaging(nn.ReLU()), -3, 18, "oldest", marks=pytest.mark.slow),
        # there is no way from GELU in functions to a newer version
        pytest.param(averaging(nn.GELU()), 999, 25, "newest", marks=pytest.mark.slow),
    ],
)
def test_the_nearest_version_that_works_is_named(network: nn.Module, version: int, nearest: int, word: str) -> None:
    with pytest.raises(ExportError, match=rf"^--opset .*{version}.*; take \d+, the {word} that works$") as caught:
        export.check_opset(network, IMAGES[:2], version)
    [named] = re.findall(r"take (\d+),", str(caught.value))
    assert int(named) == nearest
    export.check_opset(network, IMAGES[:2], nearest)
    model = export.onnx_model(network, IMAGES[:2], nearest)
    assert opset(model) == nearest
    expected = outputs(network, IMAGES)
    assert relative_difference(expected, export.onnx_outputs(export.onnx_session(model), IMAGES)) <= 1e-4


def test_a_network_that_no_version_can_hold_is_not_the_versions_fault() -> None:
    export.check_opset(Holder(ReadsValues().float()).eval(), IMAGES[:2], 13)


def test_eight_bits_are_smaller_and_near() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 5)).eval()
    written = export.onnx_model(model, IMAGES[:2])
    small = export.quantized(written, IMAGES, batch_size=4)
    assert len(small) < 0.5 * len(written)
    difference = relative_difference(outputs(model, IMAGES), export.onnx_outputs(export.onnx_session(small), IMAGES))
    assert 0 < difference < 0.03


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Identity()
        self.body = nn.Sequential(nn.Identity(), inner)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.stem(images))


def test_the_part_that_cannot_be_exported_is_named() -> None:
    network = Holder(ReadsValues().float()).eval()
    with pytest.raises(ExportError, match=r"torch\.export cannot take it"):
        export.exported_program(network, IMAGES[:2])
    assert export.failing_part(network, IMAGES[:2]) == "body.1"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "onnxscript", absent)
    with pytest.raises(ExportError, match=r"export needs the package onnxscript; pip install 'evoprune\[export\]'"):
        export.onnx_model(chain(), IMAGES[:2])
