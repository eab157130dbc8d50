"""Attention for decoding with grouped queries, without copying keys and values for every query.

transformers' `sdpa` repeats keys and values to one head a query before each step that has an
attention mask, which left-padded batches need: three times the memory traffic for SmolLM2, four
times for Mistral. Here the queries that share a head stand where a longer query would.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "grouped_sdpa"


def use_grouped_attention(model: Any) -> None:
    """Switch a model that runs transformers' `sdpa`, and only such a one, to this attention."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, grouped_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from one new token; a longer query goes to transformers' own function.

    Shapes: query (batch, heads, 1, width), key and value (batch, key heads, length, width), mask
    (batch, 1, 1, length); returns (batch, 1, heads, width).
    """
    batch, heads, length, width = query.shape
    key_heads = key.shape[1]
    if length > 1 or heads == key_heads:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    groups = heads // key_heads
    if attention_mask is not None:
        attention_mask = attention_mask.expand(-1, -1, groups, -1)
    output = scaled_dot_product_attention(
        query.reshape(batch, key_heads, groups, width),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return output.reshape(batch, 1, heads, width), None
