"""A second opinion: the dependency graph of the Torch-Pruning library takes the same maps along."""

from collections import defaultdict

import pytest
import torch

from evoprune.space.search_space import SearchSpace
from tests.space.networks import CASES, example, network, space_of

tp = pytest.importorskip("torch_pruning")

NAMES = (
    *("plain", "bias without norm", "residual", "residual with projection", "depthwise separable"),
    *("dense block", "inception", "fire", "squeeze and excitation", "flatten", "u-net", "padded", "geometries"),
)


def ours(space: SearchSpace, gene: int) -> dict[tuple[str, int], set[int]]:
    """What one gene takes along: positions of each (tensor, dimension)."""
    genome = space.full()
    genome[gene] = 0
    sizes = {(axis.tensor, axis.dim): len(axis.gene) for axis in space.axes}
    kept = space.phenotype(genome).kept
    return {place: set(range(sizes[place])) - set(index.tolist()) for place, index in kept.items()}


def theirs(name: str, layer: str, map_: int) -> dict[tuple[str, int], set[int]]:
    """The same, of the group that Torch-Pruning prunes with one output map of a layer; weights and scales only."""
    model = network(CASES[name])
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example(CASES[name]))
    root = model.get_submodule(layer)
    prune = tp.prune_linear_out_channels if isinstance(root, torch.nn.Linear) else tp.prune_conv_out_channels
    names = {module: module_name for module_name, module in model.named_modules()}
    taken: dict[tuple[str, int], set[int]] = defaultdict(set)
    for dependency, positions in graph.get_pruning_group(root, prune, idxs=[map_]):
        module = dependency.target.module
        if module in names:
            norm_or_depthwise = dependency.handler in (
                tp.prune_batchnorm_out_channels,
                tp.prune_depthwise_conv_out_channels,
                tp.prune_depthwise_conv_in_channels,
                tp.prune_batchnorm_in_channels,
            )
            inwards = "in_channels" in dependency.handler.__name__ and not norm_or_depthwise
            taken[f"{names[module]}.weight", int(inwards)] |= set(positions)
    return dict(taken)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_maps_go_together(name: str) -> None:
    space = space_of(name)
    for group in space.groups:
        for member in (0, group.size // 2, group.size - 1):
            gene = group.start + member
            mine = {place: taken for place, taken in ours(space, gene).items() if place[0].endswith("weight")}
            first = next(layer for layer in space.layers if layer.name == group.layers[0])
            (map_,) = mine[first.weight, first.out_dim]
            assert theirs(name, first.name, map_) == mine
