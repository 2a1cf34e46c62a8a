"""PyTorch's multi-head attention for widths that PyTorch's own does not allow: heads and embedding that lost parts."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NarrowMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention whose heads together need not be as wide as the embedding."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        queries, keys, values = self._heads(query, key, value)  # (batch, heads, tokens, head_dim)
        added = keys.shape[2] - key.shape[1]
        mask = self._mask(attn_mask, key_padding_mask, query, added)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = queries / math.sqrt(self.head_dim) @ keys.mT
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            outputs = weights @ values
        else:
            outputs = F.scaled_dot_product_attention(queries, keys, values, mask, dropout)
        # the weights alone, as in PyTorch's attention, so that the same modules are called in both
        outputs = F.linear(outputs.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return outputs.squeeze(0), None if weights is None else weights.squeeze(0)
        return outputs if self.batch_first else outputs.transpose(0, 1), weights

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values by head: (batch, heads, tokens, head_dim). Inputs: (batch, tokens, width)."""
        projections: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            projections = self.in_proj_weight.chunk(3)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        tokens = [F.linear(*given) for given in zip((query, key, value), projections, biases, strict=True)]
        for place, extra in ((1, self.bias_k), (2, self.bias_v)):
            if extra is not None:
                tokens[place] = torch.cat([tokens[place], extra.expand(len(query), -1, -1)], 1)
            if self.add_zero_attn:
                tokens[place] = F.pad(tokens[place], (0, 0, 0, 1))
        return [tensor.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for tensor in tokens]

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor, added: int) -> Tensor | None:
        """Both masks as numbers that are added to the scores; None without masks. added: number of further keys."""
        masks = []
        if attn_mask is not None:
            mask = _as_numbers(attn_mask, query, added)
            masks.append(mask.unflatten(0, (-1, self.num_heads)) if mask.ndim == 3 else mask)
        if padding is not None:
            masks.append(_as_numbers(padding, query, added)[:, None, None])
        return sum(masks[1:], masks[0]) if masks else None


def _as_numbers(mask: Tensor, query: Tensor, added: int) -> Tensor:
    """A mask as numbers: a bool one is minus infinity where it is true. Further keys are not masked."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)
    return F.pad(mask, (0, added))


def fit_attention(module: nn.MultiheadAttention) -> None:
    """Sets the sizes of multi-head attention to those of its tensors, and the class that can compute with them."""
    width, inner = module.out_proj.weight.shape
    first: Any = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
    keys: Any = first if module.in_proj_weight is not None else module.k_proj_weight
    values: Any = first if module.in_proj_weight is not None else module.v_proj_weight
    module.embed_dim, module.num_heads = width, inner // module.head_dim
    module.kdim, module.vdim = keys.shape[1], values.shape[1]
    module.out_proj.in_features, module.out_proj.out_features = inner, width
    plain = width == inner == first.shape[1]
    module.__class__ = nn.MultiheadAttention if plain else NarrowMultiheadAttention
    # PyTorch's fast path of a transformer's layer, which has no place for other widths, asks this attribute.
    module._qkv_same_embed_dim = plain and module.in_proj_weight is not None
