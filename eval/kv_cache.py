"""Keys and values of a batch's prompts, read in groups and then continued together.

The cost of reading is per token, including padding, so prompts of similar length are read together,
and their common beginning, the instruction, only once. The cost of a new token is mostly reading
the weights, so all prompts of the batch are continued together, whatever their lengths.
"""

from collections.abc import Iterator
from os.path import commonprefix
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

READ_AT_ONCE = 4096  # prompt tokens: enough for full speed, with little memory for activations
MAX_PADDING = 0.3  # of a prompt, as a share of the longest one in its group
Ids = list[list[int]]


def can_be_joined(model: Any) -> bool:
    """Return whether all layers keep keys and values per token, unlike the state of Mamba.

    Rows of such a state cannot be read separately and joined, and cannot leave the batch.
    """
    return _layers(model) <= {DynamicLayer, DynamicSlidingWindowLayer}


def depends_on_others(model: Any, tokens: int) -> bool:
    """Return whether a summary depends on the rest of its batch, so that each needs its own.

    True for a state that is kept outside the cache (RecurrentGemma, RWKV), and for rotary
    embeddings that change if the longest row, of `tokens`, exceeds the length of pretraining.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    changing = [kind for kind in kinds if kind.get("rope_type") in ("longrope", "dynamic")]
    limits = [
        kind.get("original_max_position_embeddings") or config.max_position_embeddings
        for kind in changing
    ]
    return any(tokens > limit for limit in limits) or (model._is_stateful and can_be_joined(model))


def _layers(model: Any) -> set[type]:
    return {type(layer) for layer in DynamicCache(config=model.config).layers}


def shared_tokens(model: Any, prompts: Ids) -> int:
    """Return how many tokens all prompts begin with, at most the shortest length minus two.

    0 if a layer has a sliding window, which would count the padding after these tokens, or for old
    models without sdpa (MPT, GPT-Neo), whose attention would count it too.
    """
    if len(prompts) == 1 or _layers(model) != {DynamicLayer} or not model._supports_sdpa:
        return 0
    return max(0, min(len(commonprefix(prompts)), min(map(len, prompts)) - 2))


def read_prompts(
    model: Any, first: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, room: int
) -> DynamicCache:
    """Return keys and values of all but each prompt's last token, with `room` for new tokens.

    `ids`: (rows, length), padded on the left. `first`: (1, tokens), the beginning of all prompts,
    which is read once. `mask`: (rows, length), first those tokens, then padding, then the others.
    Prompts of similar length are read together, so that little padding is read; afterwards all of
    them can be continued together.
    """
    rows, width = ids.shape
    shared, width = first.shape[1], width - 1
    beginning: Any = DynamicCache(config=model.config)
    if shared:
        model.get_decoder()(input_ids=first, past_key_values=beginning, use_cache=True)
    joined: list[Any] = []
    lengths = (mask.sum(dim=1) - 1 - shared).tolist()
    for group in similar(lengths):
        start = width - lengths[group[0]]
        part: Any = DynamicCache(config=model.config)
        for layer, common in zip(part.layers, beginning.layers, strict=True):
            if shared:
                both = (common.keys, common.values)
                layer.update(*(states.expand(len(group), -1, -1, -1) for states in both))
        seen_mask = torch.cat([mask[group, :shared], mask[group, start:width]], dim=1)
        model.get_decoder()(
            input_ids=ids[group, start:width],
            attention_mask=seen_mask,
            position_ids=(seen_mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:],
            past_key_values=part,
            use_cache=True,
        )
        joined = joined or [joint_layer(layer, rows, width, room) for layer in part.layers]
        for layer, read in zip(joined, part.layers, strict=True):
            tail = shared - read.keys.shape[2]  # negative: the part after the common beginning
            for target, source in ((layer.keys, read.keys), (layer.values, read.values)):
                target[group, :, :shared] = source[:, :, :shared]
                target[group, :, tail:] = source[:, :, tail:]
    cache = DynamicCache(config=model.config)
    cache.layers = joined
    return cache


def similar(lengths: list[int]) -> Iterator[list[int]]:
    """Yield rows to read together, longest first: at most `READ_AT_ONCE` tokens, little padding."""
    group: list[int] = []
    rows = [row for row, length in enumerate(lengths) if length]
    for row in sorted(rows, key=lambda row: -lengths[row]):
        longest = lengths[group[0]] if group else 0
        full = (len(group) + 1) * longest > READ_AT_ONCE
        if group and (full or lengths[row] < (1 - MAX_PADDING) * longest):
            yield group
            group = []
        group.append(row)
    yield group


def joint_layer(layer: Any, rows: int, width: int, room: int) -> DynamicLayer:
    """Return a zeroed layer of `rows` times `width` tokens, to fill from layers like `layer`."""
    if not layer.is_sliding:
        return RoomyLayer(layer, rows, width, room)
    joint = DynamicSlidingWindowLayer(layer.sliding_window)
    joint.lazy_initialization(layer.keys, layer.values)
    joint.cumulative_length, length = width, min(width, layer.sliding_window - 1)
    joint.keys, joint.values = (zeros(of, rows, length) for of in (layer.keys, layer.values))
    return joint


def zeros(of: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Return zeros like `of` (rows, heads, length, width), but with `rows` and `length`."""
    return of.new_zeros(rows, of.shape[1], length, of.shape[3])


class RoomyLayer(DynamicLayer):
    """A layer with spare room in its tensors, so that adding a token does not copy the others."""

    keys: Any
    values: Any

    def __init__(self, like: Any, rows: int, length: int, room: int):
        """Make `length` zeroed tokens, and `room` for more: (rows, heads, tokens, width)."""
        super().__init__()
        self.lazy_initialization(like.keys, like.values)
        self.stores = [zeros(of, rows, length + room) for of in (like.keys, like.values)]
        self.keys, self.values = (store[:, :, :length] for store in self.stores)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add new keys and values; return all of them."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        for store, new in zip(self.stores, (key_states, value_states), strict=True):
            store[:, :, start:end] = new
        self.keys, self.values = (store[:, :, :end] for store in self.stores)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows; rows that keep their place are not copied."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for store in self.stores:
            store[moved] = store[indices[moved]]
        self.stores = [store[: len(indices)] for store in self.stores]
        length = self.keys.shape[2]
        self.keys, self.values = (store[:, :, :length] for store in self.stores)
