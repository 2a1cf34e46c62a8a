"""Attention: whole heads and the width of the embedding can go, in PyTorch's attention, timm's, and one by hand."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import evoprune as ep
from evoprune.discovery.proof import relative_difference
from tests.discovery.agreement import groups_of, reasons_of, searched

WIDTH, HEADS, TOKENS = 16, 4, 5


class Transformer(nn.Module):
    """4 patches with positions and a class token, blocks of `WIDTH`, and a classifier."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Block(nn.Module):
    """Attention and a hidden layer, each with a norm before it and a residual around it."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.norms = attention, nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.wide, self.narrow = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(F.gelu(self.wide(self.norms[1](x))))


class Pytorch(nn.Module):
    """PyTorch's attention of tokens to themselves. call: arguments of its forward."""

    def __init__(self, call: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.inner, self.call = nn.MultiheadAttention(WIDTH, HEADS, **options), call or {}

    def forward(self, x: Tensor) -> Tensor:
        if self.inner.batch_first:
            return self.inner(x, x, x, **self.call)[0]
        x = x.transpose(0, 1)
        return self.inner(x, x, x, **self.call)[0].transpose(0, 1)


class ByHand(nn.Module):
    """Queries, keys and values from three layers; the width of a head is left to the view."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Relative(ByHand):
    """The same with a table of relative positions, one column for each head (Swin)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS))
        self.register_buffer("places", torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) + TOKENS - 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        bias = self.table[self.places.flatten()].view(TOKENS, TOKENS, -1).permute(2, 0, 1).contiguous()  # type: ignore[operator]
        weights = (q @ k.transpose(-2, -1) * self.scale + bias.unsqueeze(0)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class NonLocal(nn.Module):
    """A non-local block: maps of queries and keys are summed over, maps of values are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.q, self.k = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.v, self.out, self.head = nn.Conv2d(8, 7, 1), nn.Conv2d(7, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = (self.q(x).flatten(2).mT @ self.k(x).flatten(2)).softmax(-1)  # (batch, pixels, pixels)
        seen = (weights @ self.v(x).flatten(2).mT).mT.reshape(len(x), -1, *x.shape[2:])
        return self.head((x + self.out(seen)).relu().mean((2, 3)))


def timm_attention(**options: Any) -> nn.Module:
    layers = pytest.importorskip("timm.layers")
    return layers.Attention(WIDTH, HEADS, qkv_bias=True, norm_layer=nn.LayerNorm, **options)


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


CAUSAL = nn.Transformer.generate_square_subsequent_mask(TOKENS).double()

ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "pytorch": lambda: Pytorch(batch_first=True),
    "pytorch, tokens first, no weights": lambda: Pytorch({"need_weights": False}),
    "pytorch, no bias": lambda: Pytorch(bias=False, batch_first=True),
    "pytorch, biases of keys": lambda: Pytorch({"average_attn_weights": False}, add_bias_kv=True),
    "pytorch, masks": lambda: Pytorch({"attn_mask": CAUSAL > -1, "key_padding_mask": torch.eye(TOKENS)[:2] > 0}),
    "timm": timm_attention,
    "timm, norms and gate": lambda: timm_attention(qk_norm=True, scale_norm=True, gated=True),
    "by hand": ByHand,
    "relative positions": Relative,
}


def counted_macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of a forward pass, counted by PyTorch operation by operation."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel([SDPBackend.MATH]):
        model(x)
    torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", list(ATTENTION))
def test_heads_and_the_width_of_the_embedding_can_go(name: str) -> None:
    torch.manual_seed(0)
    model = Transformer(Block(ATTENTION[name]())).eval()
    space = searched(model, images())
    assert sorted(group.size for group in space.groups) == [HEADS, WIDTH, 24]
    assert reasons_of(space) == {"head": "it is an output of the network"}
    genome = space.random(np.random.default_rng(1), 0.5)
    if "masks" not in name:
        assert ep.cost(space, genome).macs == counted_macs(ep.compact(model, space, genome), images(1))
    assert ep.cost(space, genome).macs < 0.33 * ep.cost(space, space.full()).macs


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_layer_of_a_transformer(norm_first: bool) -> None:
    """Its fast path has no place for other widths and is not taken."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True, norm_first=norm_first) for _ in range(2)]
    space = searched(Transformer(*layers), images())
    assert sorted(group.size for group in space.groups) == [HEADS, HEADS, WIDTH, 24, 24]


def test_a_compacted_attention_is_pytorchs_own_again_if_its_widths_fit() -> None:
    torch.manual_seed(0)
    model = Transformer(Block(Pytorch(batch_first=True))).eval()
    space = ep.search_space(model, images())
    heads, width = (next(group for group in space.groups if group.size == size) for size in (HEADS, WIDTH))
    genome = space.full()
    genome[heads.start : heads.start + 2] = 0
    narrow = ep.compact(model, space, genome).get_submodule("blocks.0.attention.inner")
    assert type(narrow).__name__ == "NarrowMultiheadAttention"
    assert (narrow.embed_dim, narrow.num_heads, narrow.head_dim) == (16, 2, 4)
    genome[width.start : width.start + 8] = 0
    small = ep.compact(model, space, genome)
    plain = small.get_submodule("blocks.0.attention.inner")
    assert type(plain) is nn.MultiheadAttention
    assert (plain.embed_dim, plain.num_heads, plain.head_dim) == (8, 2, 4)
    small.train()(images()).sum().backward()


def test_the_cost_of_attention_counted_by_hand() -> None:
    """5 tokens; 3 of 4 heads of width 4, 10 of 16 embedding positions and 20 of 24 hidden units stay."""
    model = Transformer(Block(timm_attention())).eval()
    space = ep.search_space(model, images())
    genome = space.full()
    for size, kept in ((HEADS, 3), (WIDTH, 10), (24, 20)):
        group = next(group for group in space.groups if group.size == size)
        genome[group.start + kept : group.start + size] = 0
    layers = 4 * 10 * 48 + TOKENS * (36 * 10 + 10 * 12 + 20 * 10 + 10 * 20) + 5 * 10
    products = 3 * 2 * (TOKENS * TOKENS * 4)
    assert ep.cost(space, genome).macs == layers + products


def test_maps_that_a_product_sums_over() -> None:
    torch.manual_seed(0)
    model = NonLocal()
    assert groups_of(searched(model, images())) == {("stem", "out"): 8, ("q", "k"): 6, ("v",): 7}


def test_a_number_of_heads_that_is_hard_coded_keeps_them() -> None:
    torch.manual_seed(0)
    space = searched(Transformer(Block(HardCoded())), images())
    assert sorted(group.size for group in space.groups) == [WIDTH, 24]
    assert "does not run without" in reasons_of(space)["blocks.0.attention.q"]


class HardCoded(ByHand):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(len(x), TOKENS, 4, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_weights_that_are_returned_are_means_over_the_heads_that_stay() -> None:
    torch.manual_seed(0)
    model = Returning().eval()
    space = ep.search_space(model, images())
    assert HEADS in [group.size for group in space.groups]
    exact, x = copy.deepcopy(model).double(), images().double()
    genome = space.random(np.random.default_rng(0), 0.5)
    with torch.no_grad():
        masked, small = ep.mask(exact, space, genome)(x), ep.compact(exact, space, genome)(x)
    assert relative_difference(masked, small) <= 1e-12


class Returning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, WIDTH, 4, stride=4), nn.MultiheadAttention(WIDTH, HEADS)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).flatten(2).permute(2, 0, 1)
        x, weights = self.attention(x, x, x)
        return self.head(x), weights
