"""Maps that meet elements of parameters (embeddings, positions, tokens): the parameters are cut with them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evoprune as ep
from tests.discovery.agreement import groups_of, reasons_of, searched

BOTH = {("a",): 8, ("b",): 6}


class Meeting(nn.Module):
    """8 maps of 6 x 6 meet a parameter, and are read by another convolution."""

    def __init__(self, meet: Callable[["Meeting", Tensor], Tensor], **parameters: tuple[int, ...]) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.meet = meet
        self.table = nn.ParameterDict({name: nn.Parameter(torch.randn(shape)) for name, shape in parameters.items()})

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.meet(self, self.a(x)).relu()).mean((2, 3)))


class Labelled(nn.Module):
    """Maps meet the embedding of a label."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.embedding = embedding

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        x = self.a(x) + self.embedding(label)[:, :, None, None]
        return self.out(self.b(x.relu()).mean((2, 3)))


class Conditional(Labelled):
    """The embedding has a scale and a shift for each map, as in conditional batch norm."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        scale, shift = self.embedding(label)[:, :, None, None].chunk(2, 1)
        return self.out(self.b((self.a(x) * scale + shift).relu()).mean((2, 3)))


def images() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([1, 3])


def test_an_embedding_that_is_added_to_maps_loses_columns() -> None:
    torch.manual_seed(0)
    model = Labelled(nn.Embedding(5, 8))
    space = searched(model, images(), LABELS)
    assert groups_of(space) == BOTH
    assert reasons_of(space) == {"out": "it is an output of the network"}
    genome = space.full()
    genome[[1, 2, 6]] = 0
    small = ep.compact(model, space, genome).get_submodule("embedding")
    assert small.embedding_dim == 5
    assert torch.equal(small.get_parameter("weight"), model.embedding.get_parameter("weight")[:, [0, 3, 4, 5, 7]])


def test_a_scale_and_a_shift_from_one_embedding() -> None:
    torch.manual_seed(0)
    model = Conditional(nn.Embedding(5, 16))
    space = searched(model, images(), LABELS)
    assert groups_of(space) == BOTH
    genome = space.full()
    genome[3] = 0
    assert space.phenotype(genome).kept["embedding.weight", 1].tolist() == [i for i in range(16) if i not in (3, 11)]


def test_a_bag_of_embeddings() -> None:
    torch.manual_seed(0)
    assert groups_of(searched(Labelled(nn.EmbeddingBag(5, 8)), images(), torch.tensor([[1, 3], [0, 1]]))) == BOTH


def sequences(net: Meeting, x: Tensor) -> Tensor:
    """A class token and three more are put before the pixels, which have positions."""
    table, pixels = net.table, x.flatten(2).transpose(1, 2) + net.table["positions"]
    tokens = [table[name].expand(len(x), -1, -1) for name in ("token", "registers")]
    pixels = torch.cat([*tokens, pixels], 1)
    return pixels[:, 4:].transpose(1, 2).reshape(x.shape) * pixels.mean(1)[:, :, None, None]


def separable(net: Meeting, x: Tensor) -> Tensor:
    return x + (net.table["rows"][:, None] + net.table["columns"][None]).permute(2, 0, 1)


def side_by_side(net: Meeting, x: Tensor) -> Tensor:
    """Half of the maps has the position of the row, and half that of the column (DETR)."""
    rows, columns = net.table["rows"][:, None].repeat(1, 6, 1), net.table["columns"][None].repeat(6, 1, 1)
    return x + torch.cat([rows, columns], -1).permute(2, 0, 1)


def resized(net: Meeting, x: Tensor) -> Tensor:
    return x + F.interpolate(net.table["grid"], size=x.shape[2:], mode="bicubic", align_corners=False)


MEETINGS: dict[str, tuple[Meeting, list[int]]] = {
    "a part of a table": (Meeting(lambda net, x: x + net.table["big"][:, :6, :6], big=(8, 9, 9)), [8, 6]),
    "tokens": (Meeting(sequences, token=(1, 1, 8), registers=(1, 3, 8), positions=(1, 36, 8)), [8, 6]),
    "rows and columns": (Meeting(separable, rows=(6, 8), columns=(6, 8)), [8, 6]),
    "rows beside columns": (Meeting(side_by_side, rows=(6, 4), columns=(6, 4)), [4, 4, 6]),
    "resized": (Meeting(resized, grid=(1, 8, 3, 3)), [8, 6]),
    "through a function": (Meeting(lambda net, x: x * (2 * net.table["big"]).sigmoid().clone(), big=(8, 6, 6)), [8, 6]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MEETINGS))
def test_maps_that_meet_a_table_of_parameters_are_removed_with_its_positions(name: str) -> None:
    model, genes = MEETINGS[name]
    space = searched(model, images())
    assert [group.size for group in space.groups] == genes
    assert reasons_of(space) == {"out": "it is an output of the network"}


def test_maps_that_meet_a_table_along_two_dimensions_stay_whole() -> None:
    model = Meeting(lambda net, x: x + (net.table["square"] + net.table["square"].T)[:, :6, None], square=(8, 8))
    space = searched(model, images())
    assert groups_of(space) == {("b",): 6}
    assert "does not run without" in reasons_of(space)["a"]
