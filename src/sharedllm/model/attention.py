"""Attention of given queries over given keys, by the kernel that `kernels.kernel` chooses."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from .kernels import KeyValueSpan, attend_few, attend_groups, attend_shared, kernel

# Most elements of a mask at once.
_MASK = 2**25


def attend(
    module: Any,
    implementation: str | None,
    queries: Float[Tensor, "B H L D"],
    keys: Float[Tensor, "B G S D"],
    values: Float[Tensor, "B G S D"],
    allowed: Bool[Tensor, "..."] | Float[Tensor, "..."],
) -> Float[Tensor, "B L H*D"]:
    """Attention restricted by `allowed`; no causal mask is implied.

    Args:
        module: has `num_key_value_groups`, `scaling` and `training`.
        implementation: "eager" or "sdpa"; None is "eager".
        queries: (B, H, L, D). keys, values: (B, G, S, D).
        allowed: broadcastable to (B, 1, L, S): bool, True to attend, or numbers added to the scores; every query needs
            at least one key.

    Returns:
        (B, L, H · D).
    """
    implementation = implementation or "eager"
    own = own_scores(module)
    chosen = kernel(implementation, queries.shape, keys.shape, queries.device, seen="masked", own_scores=bool(own))
    mask = allowed.expand(len(queries), 1, queries.shape[2], keys.shape[2])
    if mask.dtype == torch.bool and (chosen == "products" or implementation == "eager"):
        bias = torch.zeros(mask.shape, dtype=queries.dtype, device=queries.device)
        mask = bias.masked_fill(~mask, torch.finfo(queries.dtype).min)
    if chosen == "products":
        return attend_few(queries, [(keys, values, mask)], module.scaling, **own)
    if chosen == "grouped":
        return attend_groups(queries, keys, values, mask, module.scaling)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    out, _ = function(module, queries, keys, values, mask, scaling=module.scaling, is_causal=False)
    return out.flatten(2)


def own_scores(module: Any) -> dict[str, Any]:
    """Special treatment of scores by some families, as arguments of `attend_few`: Gemma 2 caps them, gpt-oss has a sink
    in every head. transformers' SDPA supports neither."""
    own = {"softcap": getattr(module, "attn_logit_softcapping", None), "sinks": getattr(module, "sinks", None)}
    return {name: value for name, value in own.items() if value is not None}


def attend_to_all(
    implementation: str | None, queries: Float[Tensor, "B H L D"], span: KeyValueSpan, scaling: float, **own: Any
) -> Float[Tensor, "B L H*D"]:
    """Attention of queries that all see the same keys of their text: neither keys nor values are repeated for heads or rows.

    Args:
        implementation: "eager" or "sdpa"; None is "eager".
        queries: (B, H, L, D). span: of B texts, or of fewer, each shared by the same number of consecutive rows. Its
            bias is the same for all queries: (B, 1, 1, S).
        own: see `own_scores`.

    Returns:
        (B, L, H · D).
    """
    implementation, shape = implementation or "eager", span[0].shape
    chosen = kernel(implementation, queries.shape, shape, queries.device, seen="all", own_scores=bool(own))
    if chosen == "products":
        return attend_few(queries, [span], scaling, **own)
    return attend_shared(queries, *in_full(span), scaling)


def attend_joined(
    module: Any,
    implementation: str | None,
    queries: Float[Tensor, "B H L D"],
    far: KeyValueSpan,
    near: KeyValueSpan,
    apart: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L H*D"]:
    """One softmax over the keys of two spans side by side.

    Args:
        module, implementation: as for `attend`.
        queries: (B, H, L, D).
        far: of B texts, or of fewer, each shared by the same number of consecutive rows. near: of B texts.
        apart: (B, L), queries that see only the near keys.

    Returns:
        (B, L, H · D).
    """
    own = own_scores(module)
    implementation, shape = implementation or "eager", far[0].shape
    chosen = kernel(implementation, queries.shape, shape, queries.device, seen="spans", own_scores=bool(own))
    if chosen == "products":
        if apart is not None:
            # There are few queries, so a bias for each of them is small.
            keys, values, bias = far
            bias = None if bias is None else bias.repeat_interleave(len(queries) // len(bias), 0)
            far = (keys, values, _spread((keys, values, bias), queries, 0, apart))
        return attend_few(queries, [far, near], module.scaling, **own)
    far, near = in_full(far), in_full(near)
    (batch, heads, length, _), (texts, groups, _, dim) = queries.shape, far[0].shape
    if texts < batch:
        # Some rows of a text at a time, so few that copies and intermediate results stay small compared with the memory.
        turn, each = max(1, groups * dim // (4 * heads * length)), batch // texts
        turns = [range(batch)[i : i + each][j : j + turn] for i in range(0, batch, each) for j in range(0, each, turn)]
        return torch.cat(
            [
                attend_joined(
                    module,
                    implementation,
                    _rows(queries, rows, batch),
                    _rows_of(far, rows, batch),
                    _rows_of(near, rows, batch),
                    None if apart is None else _rows(apart, rows, batch),
                )
                for rows in turns
            ]
        )
    keys, values = torch.cat([far[0], near[0]], 2), torch.cat([far[1], near[1]], 2)
    block, out = max(1, _MASK // (batch * keys.shape[2])), []
    for start in range(0, length, block):
        some = queries[:, :, start : start + block]
        bias = torch.cat([_spread(far, some, start, apart), _spread(near, some, start)], -1)
        out.append(attend(module, implementation, some, keys, values, bias))
    return torch.cat(out, 1) if len(out) > 1 else out[0]


def in_full(
    span: KeyValueSpan,
) -> tuple[Float[Tensor, "X G S D"], Float[Tensor, "X G S D"], Float[Tensor, "_ 1 _ S"] | None]:
    """The span with keys and values converted back from 8 bits."""
    keys, values, bias = span
    return (
        keys if isinstance(keys, Tensor) else keys.whole(),
        values if isinstance(values, Tensor) else values.whole(),
        bias,
    )


def _rows(tensor: Tensor, rows: range, batch: int) -> Tensor:
    """The part of a tensor, for all rows of a batch or for fewer texts, that belongs to some rows."""
    return tensor[rows[0] * len(tensor) // batch : rows[-1] * len(tensor) // batch + 1]


def _rows_of(span: tuple[Tensor, Tensor, Tensor | None], rows: range, batch: int) -> KeyValueSpan:
    keys, values, bias = span
    return _rows(keys, rows, batch), _rows(values, rows, batch), None if bias is None else _rows(bias, rows, batch)


def _spread(
    span: KeyValueSpan, queries: Float[Tensor, "B H L D"], start: int, apart: Bool[Tensor, "B _"] | None = None
) -> Float[Tensor, "B 1 L _"]:
    """The bias of a span's scores for queries (B, H, L, D) that begin at `start`: (B, 1, L, S).

    Args:
        apart: of all queries, those that don't see the span.
    """
    keys, _, bias = span
    if bias is None:
        bias = queries.new_zeros(1, 1, 1, 1)
    elif bias.shape[2] > 1:
        bias = bias[:, :, start : start + queries.shape[2]]
    bias = bias.expand(len(queries), 1, queries.shape[2], keys.shape[2])
    if apart is None:
        return bias
    hidden = apart[:, None, start : start + queries.shape[2], None]
    return bias.masked_fill(hidden, torch.finfo(bias.dtype).min)
