"""A layer's own self-attention: its operands, for callers that add more keys, and a fast path for few queries."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from .families import Family
from .kernels import KeyValueSpan, attend_few, attend_groups, kernel
from .rope import rotate


def operands(
    family: Family, attention: Any, normed: Float[Tensor, "B L E"], attention_mask: Tensor | None = None, **kwargs
) -> tuple[Float[Tensor, "B H L D"], KeyValueSpan]:
    """The operands of self-attention: queries (B, H, L, D), and the span of the running text so far.

    Args:
        normed: (B, L, E), its input. The other arguments are those that transformers passes to self-attention.
    """
    queries, keys, values = _projected(family, attention, normed, **kwargs)
    return queries, (keys, values, _bias(attention_mask, queries, keys))


def self_attend(
    family: Family, attention: Any, normed: Float[Tensor, "B L E"], attention_mask: Tensor | None = None, **kwargs
) -> Float[Tensor, "B L E"]:
    """Self-attention's output (B, L, E); arguments as for `operands`."""
    # Only the sharing of heads matters here, not the number of keys.
    (batch, length), groups, size = normed.shape[:2], attention.num_key_value_groups, attention.head_dim
    chosen = kernel(
        attention.config._attn_implementation,
        (batch, groups, length, size),
        (batch, 1, length, size),
        normed.device,
        seen="own",
        masked=attention_mask is not None,
    )
    if chosen == "library":
        return attention(hidden_states=normed, attention_mask=attention_mask, **kwargs)[0]
    queries, keys, values = _projected(family, attention, normed, **kwargs)
    if chosen == "products" or attention_mask is None:
        attended = attend_few(queries, [(keys, values, _bias(attention_mask, queries, keys))], attention.scaling)
    else:
        # Pass the mask unchanged, so that rows that see nothing give the same result as in transformers.
        mask = attention_mask[..., : keys.shape[2]]
        attended = attend_groups(queries, keys, values, mask, attention.scaling)
    return getattr(attention, family.output)(attended)


def _projected(
    family: Family,
    attention: Any,
    normed: Float[Tensor, "B L E"],
    position_embeddings: tuple[Float[Tensor, "#B L d"], Float[Tensor, "#B L d"]],
    position_ids: Int[Tensor, "#B L"] | None = None,
    past_key_values: Cache | None = None,
    **kwargs,
) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
    """Rotated queries (B, H, L, D), and keys and values (B, G, S, D) of the running text so far."""
    keys, values = (t.transpose(1, 2) for t in family.keys_values(attention, normed))
    queries = family.queries(attention, normed).transpose(1, 2)
    queries_by, keys_by = family.turn(attention, position_embeddings, position_ids)
    queries, keys = rotate(queries, queries_by), rotate(keys, keys_by)
    if past_key_values is not None:
        keys, values = past_key_values.update(keys, values, attention.layer_idx)
    return queries, keys, values


def _bias(
    mask: Bool[Tensor, "#B 1 L _"] | Float[Tensor, "#B 1 L _"] | None,
    queries: Float[Tensor, "B H L D"],
    keys: Float[Tensor, "B G S D"],
) -> Float[Tensor, "#B 1 L S"] | None:
    """The mask that transformers passes to self-attention, as numbers to add to scores: (B, 1, L, S)."""
    length, seen = queries.shape[2], keys.shape[2]
    if mask is None:
        # transformers omits a purely causal mask: a single token sees everything before it; several tokens begin the
        # text, and the rest of a static cache is empty.
        if length == 1:
            return None
        mask = torch.ones(length, seen, dtype=torch.bool, device=queries.device).tril()[None, None]
    mask = mask[..., :seen]
    if mask.dtype == torch.bool:
        lowest = torch.finfo(queries.dtype).min
        mask = torch.zeros(mask.shape, dtype=queries.dtype, device=queries.device).masked_fill(~mask, lowest)
    return mask
