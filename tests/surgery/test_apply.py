"""A compacted network is an ordinary module: it trains, is stored, scripted, exported, and prints its widths."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evoprune.discovery.proof import relative_difference
from evoprune.discovery.tracing import tensors_of
from evoprune.surgery.apply import compact, mask
from tests.space.networks import CASES, example, network, space_of

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def compacted(name: str, keep: float = 0.5) -> nn.Module:
    space = space_of(name)
    return compact(network(CASES[name]), space, space.random(np.random.default_rng(4), keep))


@pytest.mark.parametrize("name", list(CASES))
def test_it_trains(name: str) -> None:
    case = CASES[name]
    wants = {key: parameter.requires_grad for key, parameter in network(case).named_parameters()}
    small = compacted(name).train()
    assert {key: parameter.requires_grad for key, parameter in small.named_parameters()} == wants
    assert all(parameter.is_leaf for parameter in small.parameters())
    if not any(wants.values()):
        small.requires_grad_(True)
    if name == "data-dependent reshape":
        small.eval()
    inputs = example(case, batch=4)
    sum(tensor.float().square().mean() for tensor in tensors_of(small(*inputs))).backward()  # type: ignore[union-attr]
    gradients = [parameter.grad for parameter in small.parameters()]
    assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
    assert sum(gradient is not None for gradient in gradients) >= len(gradients) - 1
    before = [parameter.detach().clone() for parameter in small.parameters()]
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    assert any(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))


@pytest.mark.parametrize("name", list(CASES))
def test_its_state_dict_is_stored_and_read(name: str) -> None:
    small = compacted(name)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    again = compacted(name)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load_state_dict(torch.load(file, weights_only=True))
    inputs = example(CASES[name])
    with torch.no_grad():
        assert relative_difference(small(*inputs), again(*inputs)) == 0


@pytest.mark.parametrize("name", list(CASES))
def test_it_is_compacted_once_more(name: str) -> None:
    """The copy shares no memory with the network it came from, and mask and compact go on working on the same one."""
    model, space = network(CASES[name]), space_of(name)
    small = compact(model, space, space.full())
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in small.state_dict().values()}
    masked = mask(model, space, space.full())
    assert not theirs & {tensor.data_ptr() for tensor in masked.state_dict().values()}
    genome = space.random(np.random.default_rng(4), 0.5)
    inputs = example(CASES[name])
    with torch.no_grad():
        assert relative_difference(compacted(name)(*inputs), compact(small, space, genome)(*inputs)) == 0


SCRIPTED = [name for name, case in CASES.items() if case.scripts]


@pytest.mark.parametrize("name", SCRIPTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_it_scripts_where_the_original_does(name: str) -> None:
    try:
        torch.jit.script(network(CASES[name]))
    except Exception:
        pytest.skip("the original does not script")
    small = compacted(name)
    inputs = example(CASES[name])
    with torch.no_grad():
        assert relative_difference(small(*inputs), torch.jit.script(small)(*inputs)) <= 1e-6


EXPORTED = ("plain", "residual with projection", "depthwise separable", "inception", "shufflenet v2", "flatten")


@pytest.mark.parametrize("name", EXPORTED)
def test_it_exports_to_onnx(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    small, inputs = compacted(name), example(CASES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(small, inputs, str(tmp_path / "small.onnx"), dynamo=False)
    graph = onnx.load(tmp_path / "small.onnx").graph
    shapes = {tuple(tensor.dims) for tensor in graph.initializer}
    assert tuple(small.state_dict()[next(iter(small.state_dict()))].shape) in shapes
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    results = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
    with torch.no_grad():
        assert relative_difference(small(*inputs), torch.from_numpy(results[0])) <= 1e-5


def widths(name: str, *kept: int) -> nn.Module:
    """The network that keeps so many maps of each group, the first ones."""
    space = space_of(name)
    genome = np.zeros(space.genes, dtype=np.uint8)
    for group, width in zip(space.groups, kept, strict=True):
        genome[group.start : group.start + width] = 1
    return compact(network(CASES[name]), space, genome)


def test_it_prints_its_new_widths() -> None:
    text = str(widths("plain", 5, 7))
    assert "Conv2d(3, 5, kernel_size" in text
    assert "BatchNorm2d(5, eps" in text
    assert "Conv2d(5, 7, kernel_size" in text
    assert "Linear(in_features=7, out_features=5" in text
    assert "Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=3" in str(
        widths("depthwise separable", 3, 12)
    )
    assert "Conv2d(3, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=3" in str(
        widths("depthwise multiplier 2", 3, 8)
    )
    assert "Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2" in str(
        widths("grouped, groups go whole", 2, 10)
    )
    assert "Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2" in str(
        widths("grouped, equal widths", 2, 3, 10)
    )
    norms = str(widths("group norms", 3, 2, 7))
    assert "GroupNorm(3, 6" in norms
    assert "GroupNorm(2, 4" in norms
    assert "GroupNorm(1, 7" in norms
    assert "LayerNorm((3,)" in str(widths("convnext", 3, 20))
    assert "InstanceNorm2d(3" in str(widths("instance norms", 3, 12))
    assert "PReLU(num_parameters=3)" in str(widths("prelus", 3, 10))
    transposed = str(widths("transposed", 3, 2, 1, 3))
    assert "ConvTranspose2d(3, 4, kernel_size=(4, 4)" in transposed
    assert "ConvTranspose2d(4, 2, kernel_size=(3, 3), stride=(1, 1), groups=2)" in transposed
    assert "ConvTranspose2d(6, 6, kernel_size=(2, 2), stride=(1, 1), groups=3, bias=False)" in transposed


def test_tied_weights_stay_tied() -> None:
    small = widths("weights tied", 3)
    assert small.get_submodule("once").weight is small.get_submodule("again").weight
    assert small.get_submodule("once").weight.shape == (3, 3, 3, 3)


def test_hooks_of_the_network_are_carried_along() -> None:
    seen: list[Tensor] = []
    model, space = network(CASES["convnext"]), space_of("convnext")
    model.get_submodule("norm").register_forward_hook(lambda module, args, output: seen.append(output))
    genome = space.random(np.random.default_rng(0), 0.5)
    with torch.no_grad():
        compact(model, space, genome)(*example(CASES["convnext"]))
    assert [tensor.shape[-1] for tensor in seen] == [4]
    assert all(len(module._forward_hooks) == 0 for name, module in model.named_modules() if name != "norm")
