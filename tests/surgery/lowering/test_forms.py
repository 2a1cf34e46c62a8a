"""Every form of a masked convolution against the masked convolution itself, in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evoprune.surgery.lowering.forms import Form, MaskedLayer, forms
from evoprune.surgery.lowering.lower import lowered_conv
from evoprune.surgery.lowering.lowered_conv import Geometry

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def layer_of(conv: Any, mask: np.ndarray, values: torch.Tensor, ordered: bool = False) -> MaskedLayer:
    pixels_out = conv(values)[0, 0].numel()
    geometry = Geometry.of(conv)
    return MaskedLayer(geometry, mask, conv.groups, len(values), values[0, 0].numel(), pixels_out, ordered)


def set_to_zero(conv: Any, mask: np.ndarray) -> None:
    with torch.no_grad():
        conv.weight.mul_(torch.from_numpy(mask).reshape(conv.weight.shape))


def strided(mask: np.ndarray, column: int, start: int, stride: int) -> None:
    """All kernels that leave an input map keep the taps start, start + stride, ... in place."""
    stays = np.zeros(mask.shape[2], dtype=bool)
    stays[start::stride] = True
    mask[:, column] &= stays


@st.composite
def masked_convolutions(draw: st.DrawFn) -> tuple[Any, np.ndarray, torch.Tensor]:
    dims = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups, inputs, outputs = (draw(st.integers(1, 4)) for _ in range(3))
    kernel = tuple(draw(st.integers(1, 3 if dims == 3 else 5)) for _ in range(dims))
    stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(dims)) for most in (3, 2))
    padding: Any = tuple(draw(st.integers(0, 3)) for _ in range(dims))
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "replicate", "circular"]))
    if draw(st.integers(0, 7)) == 0:
        padding, stride = "same", (1,) * dims
    conv = CONVOLUTIONS[dims](
        inputs * groups, outputs * groups, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode
    ).double()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.ones((outputs * groups, inputs, int(np.prod(kernel))), dtype=bool)
    kind = draw(st.sampled_from(["strides", "kernels", "both", "anything"]))
    if kind in ("strides", "both"):
        for column in range(inputs):
            step = int(rng.integers(1, mask.shape[2] + 1))
            strided(mask, column, int(rng.integers(step)), step)
    if kind in ("kernels", "both"):
        block = draw(st.integers(1, 2))
        stays = rng.random((len(mask), inputs)) < 0.5
        mask &= np.repeat(stays, block, axis=0)[: len(mask), :, None]
    if kind == "anything":
        mask = rng.random(mask.shape) < 0.4
    size = [spread * (side - 1) + 5 for spread, side in zip(dilation, kernel, strict=True)]
    values = torch.from_numpy(rng.standard_normal((2, inputs * groups, *size)))
    set_to_zero(conv, mask)
    return conv, mask, values


def check(conv: Any, form: Form, values: torch.Tensor, given_in_order: bool = False) -> None:
    with torch.no_grad():
        expected = conv(values)
        wanted = values[:, list(form.order or ())] if given_in_order else values
        outputs = lowered_conv(conv, form, given_in_order)(wanted)
    assert outputs.shape == expected.shape
    assert torch.allclose(outputs, expected, rtol=0, atol=1e-12), form.name


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(masked_convolutions())
def test_every_form_is_the_masked_convolution(drawn: tuple[Any, np.ndarray, torch.Tensor]) -> None:
    conv, mask, values = drawn
    for form in forms(layer_of(conv, mask, values)):
        check(conv, form, values)
    for form in forms(layer_of(conv, mask, values, ordered=True)):
        check(conv, form, values, given_in_order=form.order is not None)


def of_each_input(masks: list[tuple[int, int]], outputs: int = 16) -> tuple[Any, np.ndarray, torch.Tensor]:
    """A 3x3 convolution whose inputs have these (start, stride) masks."""
    conv: Any = nn.Conv2d(len(masks), outputs, 3, padding=1).double()
    mask = np.ones((outputs, len(masks), 9), dtype=bool)
    for column, (start, stride) in enumerate(masks):
        strided(mask, column, start, stride)
    set_to_zero(conv, mask)
    return conv, mask, torch.randn(1, len(masks), 28, 28, generator=torch.Generator().manual_seed(0)).double()


def test_columns_at_different_places_become_one_shifted_convolution() -> None:
    conv, mask, values = of_each_input([(start, 3) for start in (0, 2, 1, 0, 1, 2)] * 8)
    found = {form.name: form for form in forms(layer_of(conv, mask, values, ordered=True))}
    (block,) = found["shifted 3x1"].blocks
    (term,) = block.terms
    assert term.taps.shape == (16, 48, 3, 1)
    assert sorted(source.offset for source in term.sources) == [(0, 0), (0, 1), (0, 2)]
    assert len(found["3x1"].blocks[0].terms) == 3  # or three, added up
    assert "im2col" in found


def test_the_edges_of_a_kernel_become_two_dilated_convolutions() -> None:
    conv, mask, values = of_each_input([(1, 2)] * 32)
    found = {form.name: form for form in forms(layer_of(conv, mask, values))}
    (name,) = found.keys() & {"2x1/2+1x2/2", "1x2/2+2x1/2"}
    (block,) = found[name].blocks
    assert [term.shape.steps for term in block.terms] in ([(2, 1), (1, 2)], [(1, 2), (2, 1)])
    assert sum(term.taps[0, 0].size for term in block.terms) == 4


def test_blocks_of_kernels_become_a_gather_and_a_convolution_each() -> None:
    conv: Any = nn.Conv2d(64, 64, 3, padding=1).double()
    mask = np.ones((64, 64, 9), dtype=bool)
    mask[:32, :40] = False
    mask[32:, 20:] = False
    set_to_zero(conv, mask)
    values = torch.randn(1, 64, 14, 14, generator=torch.Generator().manual_seed(0)).double()
    found = {form.name: form for form in forms(layer_of(conv, mask, values))}
    assert [(len(block.rows), len(block.order)) for block in found["2 blocks"].blocks] == [(32, 24), (32, 20)]
    (together,) = found["2 blocks in one"].blocks
    assert together.terms[0].groups == 2
    assert together.terms[0].taps.shape == (64, 24, 3, 3)  # the second block reads four maps by zeros
    for form in found.values():
        check(conv, form, values)


def test_a_depthwise_convolution_keeps_its_groups() -> None:
    conv: Any = nn.Conv2d(48, 48, 3, padding=1, groups=48).double()
    mask = np.ones((48, 1, 9), dtype=bool)
    for row, start in zip(range(48), itertools.cycle([0, 1, 2]), strict=False):
        strided(mask[row : row + 1], 0, start, 3)
    set_to_zero(conv, mask)
    values = torch.randn(1, 48, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    found = {form.name: form for form in forms(layer_of(conv, mask, values))}
    (block,) = found["shifted classes"].blocks
    assert (block.terms[0].groups, block.terms[0].taps.shape) == (48, (48, 1, 3, 1))
    assert [block.terms[0].groups for block in found["classes"].blocks] == [16, 16, 16]


def test_a_layer_without_zeros_has_no_other_form() -> None:
    conv, mask, values = of_each_input([(0, 1)] * 3)
    assert forms(layer_of(conv, mask, values)) == []


def test_maps_that_read_nothing_are_their_bias() -> None:
    conv: Any = nn.Conv2d(3, 4, 3, padding=1).double()
    mask = np.zeros((4, 3, 9), dtype=bool)
    set_to_zero(conv, mask)
    values = torch.randn(2, 3, 5, 5).double()
    found = forms(layer_of(conv, mask, values))
    assert found
    for form in found:
        check(conv, form, values)
