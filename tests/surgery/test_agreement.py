"""Masking is the meaning, compaction the speed: for every genome both give the same outputs."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from evoprune.discovery.forward_passes import training_branches
from evoprune.discovery.proof import relative_difference
from evoprune.discovery.tracing import tensors_of
from evoprune.surgery.apply import compact, mask
from tests.space.networks import CASES, Case, example, genomes, network, space_of

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
few = settings(max_examples=5, deadline=None, derandomize=True, database=None)

HALF = (torch.float16, torch.bfloat16)
ROUNDS_INSIDE = ("float32 inside",)


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return tensors_of(model(*inputs))


def double(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.double() for tensor in inputs)


@pytest.mark.parametrize("name", list(CASES))
def test_mask_and_compact_agree(name: str) -> None:
    case, space = CASES[name], space_of(name)
    model = network(case)
    exact = network(case).double()
    inputs = example(case, batch=3, seed=5)
    before = copy.deepcopy(model.state_dict())

    @few
    @given(genomes(name))
    def check(genome: np.ndarray) -> None:
        masked, small = mask(exact, space, genome), compact(exact, space, genome)
        tolerance = 1e-5 if name in ROUNDS_INSIDE else 1e-9
        there, here = outputs(masked, double(inputs)), outputs(small, double(inputs))
        assert relative_difference(there, here) <= tolerance
        with training_branches(masked), training_branches(small):
            assert relative_difference(outputs(masked, double(inputs)), outputs(small, double(inputs))) <= tolerance
        masked, small = mask(model, space, genome), compact(model, space, genome)
        tolerance = 0.1 if case.dtype in HALF else 1e-4
        assert relative_difference(outputs(masked, inputs), outputs(small, inputs)) <= tolerance
        if genome.all():
            assert relative_difference(outputs(model, inputs), outputs(small, inputs)) == 0

    check()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_masked_contributes_nothing(name: str) -> None:
    """Any numbers in the weights, biases and statistics that write a removed map leave the outputs as they are."""
    case, space = CASES[name], space_of(name)
    model = network(case).double()
    inputs = double(example(case))
    genome = space.random(np.random.default_rng(2), keep=0.5)
    masked = mask(model, space, genome)
    expected = outputs(masked, inputs)
    written = {(layer.weight, layer.out_dim) for layer in space.layers}
    vectors = {info.name for info in space.tensors if len(info.shape) == 1}
    tensors = dict((*masked.named_parameters(), *masked.named_buffers()))
    reads = {(layer.weight, layer.in_dim) for layer in space.layers}
    with torch.no_grad():
        for (tensor, dim), kept in space.phenotype(genome).kept.items():
            if (tensor, dim) in written - reads or tensor in vectors:
                gone = np.setdiff1d(np.arange(tensors[tensor].shape[dim]), kept)
                rows = tensors[tensor].movedim(dim, 0)
                rows[torch.from_numpy(gone)] = torch.rand_like(rows[torch.from_numpy(gone)]) + 0.5
        for layer in space.layers:  # what a removed map reads of removed maps is still zero
            index = space.phenotype(genome).kept.get((layer.weight, layer.in_dim))
            if index is not None and layer.in_dim != layer.out_dim:
                gone = np.setdiff1d(np.arange(layer.shape[layer.in_dim]), index)
                tensors[layer.weight].index_fill_(layer.in_dim, torch.from_numpy(gone), 0)
    assert relative_difference(expected, outputs(masked, inputs)) <= (1e-5 if name in ROUNDS_INSIDE else 1e-12)


def test_a_removed_map_is_gone_from_the_outputs() -> None:
    """Two maps; without the second, the output is the first one's part alone, its bias and shift included."""
    case: Case = CASES["bias without norm"]
    model, space = network(case).double(), space_of("bias without norm")
    genome = space.full()
    genome[18:] = [1] + [0] * 15  # one hidden unit stays
    (x,) = double(example(case))
    hidden = torch.tanh(model[:7](x))[:, :1]  # type: ignore[index]
    last = model[8]  # type: ignore[index]
    expected = hidden @ last.weight[:, :1].T + last.bias
    for build in (mask, compact):
        assert torch.allclose(outputs(build(model, space, genome), (x,))[0], expected, atol=1e-12)
