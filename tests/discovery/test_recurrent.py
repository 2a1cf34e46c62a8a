"""Convolutions before recurrent layers lose maps, and the recurrent layer the columns that read them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from tests.discovery.agreement import groups_of, reasons_of, searched

BOTH = {("c1",): 16, ("c2",): 24}


class CRNN(nn.Module):
    """Two convolutions, a recurrent layer over the columns of the image, and a classifier for each column."""

    def __init__(self, kind: Any = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 24, 3)
        self.rnn = kind(24, 20, **options)
        self.out = nn.Linear((options.get("proj_size") or 20) * (1 + self.rnn.bidirectional), 11)

    def sequences(self, x: Tensor) -> Tensor:
        """Sequences of columns, in the order that the recurrent layer reads."""
        x = self.c2(self.c1(x).relu()).relu().mean(2)
        return x.transpose(1, 2) if self.rnn.batch_first else x.permute(2, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.sequences(x))[0])


class Packed(CRNN):
    """The same with sequences of different lengths."""

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.sequences(x), torch.tensor([20, 15]), batch_first=True)
        return self.out(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


class Stepwise(nn.Module):
    """The same with a cell."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 24, 3)
        self.cell, self.out = cell(24, 20), nn.Linear(20, 11)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for column in self.c2(self.c1(x).relu()).relu().mean(2).unbind(-1):
            state = self.cell(column, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


def images(height: int = 8) -> Tensor:
    return torch.randn(2, 1, height, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=["plain", "deep"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_convolutions_before_a_recurrent_layer_lose_maps(kind: Any, options: dict[str, Any], batch_first: bool) -> None:
    torch.manual_seed(0)
    model = CRNN(kind, batch_first=batch_first, **options)
    space = searched(model, images(), keeps=(0.0, 0.5))
    assert groups_of(space) == BOTH
    assert "hidden units of a recurrent layer" in reasons_of(space)["rnn.weight_ih_l0"]
    genome = space.full()
    genome[space.groups[1].start : space.groups[1].start + 10] = 0
    small = ep.compact(model, space, genome).get_submodule("rnn")
    assert small.input_size == 14
    widths = {name: tensor.shape[1] for name, tensor in small.named_parameters() if "weight_ih" in name}
    inputs = 20 * (2 if options else 1)  # of the second layer
    assert widths == {name: 14 if "_l0" in name else inputs for name in widths}


def test_a_recurrent_layer_with_a_projection_and_one_over_packed_sequences() -> None:
    torch.manual_seed(0)
    assert groups_of(searched(CRNN(proj_size=7, batch_first=True), images())) == BOTH
    assert groups_of(searched(Packed(batch_first=True), images())) == BOTH


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(cell: Any) -> None:
    torch.manual_seed(0)
    model = Stepwise(cell)
    space = searched(model, images(), keeps=(0.0, 0.5))
    assert groups_of(space) == BOTH
    genome = space.full()
    genome[16:26] = 0
    assert ep.compact(model, space, genome).get_submodule("cell").input_size == 14


def test_the_cost_of_a_recurrent_layer_with_cut_inputs_counted_by_hand() -> None:
    """Images of 16 x 24: maps of 14 x 22 and of 12 x 20, so 20 steps of four gates of 20 units."""
    space = ep.search_space(CRNN(batch_first=True).eval(), images(16))
    genome = space.full()
    genome[:6] = 0  # 10 maps of c1 stay
    genome[16:26] = 0  # 14 maps of c2 stay
    steps = 20
    macs = 14 * 22 * 10 * 9 + 12 * 20 * 14 * 10 * 9 + steps * (80 * 14 + 80 * 20) + steps * 20 * 11
    params = (10 * 9 + 10) + (14 * 10 * 9 + 14) + (80 * 14 + 80 * 20 + 80 + 80) + (20 * 11 + 11)
    assert ep.cost(space, genome).macs == macs
    assert ep.cost(space, genome).params == params


def test_a_compacted_recurrent_network_is_lowered_and_trains() -> None:
    model, x = CRNN(bidirectional=True, batch_first=True).eval(), images()
    space = ep.search_space(model, x)
    genome = space.random(np.random.default_rng(0), 0.5)
    small = ep.compact(model, space, genome)
    with torch.no_grad():
        assert torch.allclose(ep.lower(model, space, genome, x)(x), small(x), atol=1e-5)
    small.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
