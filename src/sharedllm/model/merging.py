"""Memories and caches of rows that were read one by one, merged into those of a batch, and back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicCache

from .cache import RoomyLayer
from .cross_attention import PreparedMemory
from .kernels import KeyValueSpan
from .rope import Rotation

# Keys and values (1, G, n, D) of a row's running text, by layer.
RowCache = list[tuple[Tensor, Tensor]]


def row_cache(cache: Cache) -> RowCache:
    """The keys and values in a cache of plain layers."""
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def merged_caches(rows: Sequence[RowCache]) -> tuple[Cache, Bool[Tensor, "B L"]]:
    """A cache of all rows, left-padded to the longest, and which of its tokens are real (B, L). Everything is copied."""
    lengths = [row[0][0].shape[2] for row in rows]
    longest = max(lengths)
    cache = DynamicCache()
    for layer in zip(*rows, strict=True):
        keys, values = (
            torch.cat([pad(t, (0, 0, longest - t.shape[2], 0)) for t in tensors])
            for tensors in zip(*layer, strict=True)
        )
        room = RoomyLayer()
        room.update(keys, values)
        cache.layers.append(room)
    device = rows[0][0][0].device
    before = torch.tensor([longest - length for length in lengths], device=device)
    return cache, torch.arange(longest, device=device) >= before[:, None]


def split_cache(cache: Cache, lengths: Sequence[int]) -> list[RowCache]:
    """The rows of a cache of `merged_caches`, of given lengths. Nothing is copied."""
    layers = row_cache(cache)
    return [
        [(keys[i : i + 1, :, -length:], values[i : i + 1, :, -length:]) for keys, values in layers]
        for i, length in enumerate(lengths)
    ]


def mergeable(memories: Sequence[PreparedMemory | None]) -> bool:
    """Whether `merged_memories` takes these: one memory for all rows, or none in 8 bits."""
    first, *others = memories
    return all(memory is first for memory in others) or not any(
        not isinstance(tensor, Tensor)
        for memory in memories
        if memory is not None
        for span in memory.layers.values()
        for tensor in span[:2]
    )


def merged_memories(memories: Sequence[PreparedMemory | None]) -> PreparedMemory | None:
    """The memory of a batch, of one row's each: padded to the longest, with a bias that hides the padding.

    If all rows read the same memory, nothing is copied.
    """
    first, *others = memories
    if all(memory is first for memory in others):
        return None if first is None else first.repeat_interleave(len(memories))
    some = next(memory for memory in memories if memory is not None)
    begins = [memory.begin for memory in memories if memory is not None and memory.begin is not None]
    begin = None
    if begins:
        zero = torch.zeros_like(begins[0])
        begin = torch.cat([zero if memory is None or memory.begin is None else memory.begin for memory in memories])
    return replace(
        some,
        layers={layer: _merged([_span(memory, layer) for memory in memories]) for layer in some.layers},
        present=torch.cat(
            [torch.zeros_like(some.present) if memory is None else memory.present for memory in memories]
        ),
        query={
            layer: _stacked([_rotation(memory, layer, by) for memory in memories]) for layer, by in some.query.items()
        },
        begin=begin,
    )


def _span(memory: PreparedMemory | None, layer: int) -> KeyValueSpan | None:
    return None if memory is None else memory.layers[layer]


def _rotation(memory: PreparedMemory | None, layer: int, like: Rotation) -> Rotation:
    """A row without a memory drops what its queries find, so any rotation will do."""
    return like if memory is None else memory.query[layer]


def _stacked(rotations: Sequence[Rotation]) -> Rotation:
    cos, sin = (torch.cat(parts) for parts in zip(*((by.cos, by.sin) for by in rotations), strict=True))
    return rotations[0]._replace(cos=cos, sin=sin)


def _merged(spans: Sequence[KeyValueSpan | None]) -> KeyValueSpan:
    """Spans of one text each, right-padded to the longest, with a bias (B, 1, 1, S) that hides padding."""
    keys = next(span[0] for span in spans if span is not None)
    assert isinstance(keys, Tensor)
    longest = max(span[0].shape[2] for span in spans if span is not None)
    shape = (len(spans), keys.shape[1], longest, keys.shape[3])
    out = keys.new_zeros(shape), keys.new_zeros(shape)
    bias = keys.new_full((len(spans), 1, 1, longest), torch.finfo(keys.dtype).min)
    for i, span in enumerate(spans):
        if span is None:
            continue
        length = span[0].shape[2]
        for whole, part in zip(out, span[:2], strict=True):
            assert isinstance(part, Tensor)
            whole[i, :, :length] = part[0]
        bias[i, ..., :length] = 0 if span[2] is None else span[2][0]
    return *out, bias if bias.any() else None
