"""Attention of given queries over given keys: through transformers' attention interface, or as matrix products by head
group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from ..memory.int8 import Int8Keys, Int8Values

IMPLEMENTATIONS = ("eager", "sdpa")

# Keys and values (B, G, S, D), and a bias added to their scores, broadcastable to (B, 1, L, S), or None.
KeyValueSpan = tuple[Tensor | Int8Keys, Tensor | Int8Values, Tensor | None]

# Most elements of a mask at once.
_MASK = 2**25


def attend(
    module: nn.Module, implementation: str, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor
) -> Tensor:
    """Attention restricted by `allowed`; no causal mask is implied.

    Args:
        module: has `num_key_value_groups`, `scaling` and `training`.
        implementation: "eager" or "sdpa".
        queries: (B, H, L, D). keys, values: (B, G, S, D).
        allowed: broadcastable to (B, 1, L, S): bool, True to attend, or numbers added to the scores; every query needs
            at least one key.

    Returns:
        (B, L, H · D).
    """
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    own = own_scores(module)
    few = bool(own) or (implementation == "sdpa" and not torch.is_grad_enabled() and are_few(queries, keys))
    mask = allowed.expand(len(queries), 1, queries.shape[2], keys.shape[2])
    if mask.dtype == torch.bool and (few or implementation == "eager"):
        bias = torch.zeros(mask.shape, dtype=queries.dtype, device=queries.device)
        mask = bias.masked_fill(~mask, torch.finfo(queries.dtype).min)
    if few:
        return attend_few(queries, [(keys, values, mask)], module.scaling, **own)
    if implementation == "sdpa" and infers_on_cpu(queries):
        return attend_groups(queries, keys, values, mask, module.scaling)
    out, _ = function(module, queries, keys, values, mask, scaling=module.scaling, is_causal=False)
    return out.flatten(2)


def own_scores(module: nn.Module) -> dict[str, Any]:
    """Special treatment of scores by some families, as arguments of `attend_few`: Gemma 2 caps them, gpt-oss has a sink
    in every head. transformers' SDPA supports neither."""
    own = {"softcap": getattr(module, "attn_logit_softcapping", None), "sinks": getattr(module, "sinks", None)}
    return {name: value for name, value in own.items() if value is not None}


def attend_to_all(implementation: str, queries: Tensor, span: KeyValueSpan, scaling: float, **own: Any) -> Tensor:
    """Attention of queries that all see the same keys of their text: neither keys nor values are repeated for heads or rows.

    Args:
        implementation: "eager" or "sdpa".
        queries: (B, H, L, D). span: of B texts, or of fewer, each shared by the same number of consecutive rows. Its
            bias is the same for all queries: (B, 1, 1, S).
        own: see `own_scores`.

    Returns:
        (B, L, H · D).
    """
    if own or implementation == "eager" or are_few(queries, span[0]):
        return attend_few(queries, [span], scaling, **own)
    keys, values, bias = in_full(span)
    # Queries with the same keys can be concatenated: the heads of a group and the rows of a text become queries.
    folded = scaled_dot_product_attention(_fold(queries, keys.shape), keys, values, attn_mask=bias, scale=scaling)
    return _unfold(folded, queries).transpose(1, 2).flatten(2)


def attend_joined(
    module: nn.Module, implementation: str, queries: Tensor, far: KeyValueSpan, near: KeyValueSpan
) -> Tensor:
    """One softmax over the keys of two spans side by side.

    Args:
        module, implementation: as for `attend`.
        queries: (B, H, L, D).
        far: of B texts, or of fewer, each shared by the same number of consecutive rows. near: of B texts.

    Returns:
        (B, L, H · D).
    """
    own = own_scores(module)
    if own or are_few(queries, far[0]):
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
                    *(_rows_of(p, rows, batch) for p in (far, near)),
                )
                for rows in turns
            ]
        )
    keys, values = torch.cat([far[0], near[0]], 2), torch.cat([far[1], near[1]], 2)
    block, out = max(1, _MASK // (batch * keys.shape[2])), []
    for start in range(0, length, block):
        some = queries[:, :, start : start + block]
        bias = torch.cat([_spread(span, some, start) for span in (far, near)], -1)
        out.append(attend(module, implementation, some, keys, values, bias))
    return torch.cat(out, 1) if len(out) > 1 else out[0]


def in_full(span: KeyValueSpan) -> tuple[Tensor, Tensor, Tensor | None]:
    """The span with keys and values converted back from 8 bits."""
    keys, values, bias = span
    return (
        keys if isinstance(keys, Tensor) else keys.whole(),
        values if isinstance(values, Tensor) else values.whole(),
        bias,
    )


def are_few(queries: Tensor, keys: Tensor | Int8Keys) -> bool:
    """Whether queries (B, H, L, D) have few scores, at most a quarter of the numbers in keys (X, G, S, D).

    Then reading keys and values dominates, and kernels made for many queries only cost time.
    """
    return 4 * queries.shape[:3].numel() <= keys.shape[:2].numel() * keys.shape[3]


def infers_on_cpu(queries: Tensor) -> bool:
    """Whether this is inference on a CPU: there SDPA reads the keys of grouped heads in place, even with a mask."""
    return queries.device.type == "cpu" and not torch.is_grad_enabled()


def attend_groups(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """SDPA of queries (B, H, L, D) without repeating keys and values (B, G, S, D) for the heads of a group, as
    transformers would.

    Args:
        mask: (B or 1, 1, L, S).

    Returns:
        (B, L, H · D).
    """
    out = scaled_dot_product_attention(queries, keys, values, mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def attend_few(
    queries: Tensor,
    spans: Sequence[KeyValueSpan],
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """One softmax over the keys of all spans. Scores are concatenated instead of keys, so no span is copied.

    Args:
        queries: (B, H, L, D).
        spans: each of B texts, or of fewer, each shared by the same number of consecutive rows.
        softcap: scores s become c · tanh(s / c) before the bias is added.
        sinks: (H,) one extra score per head, which takes part in the softmax but has no value.

    Returns:
        (B, L, H · D).
    """
    scaled, scores = queries * scaling, []
    for keys, _, bias in spans:
        score = _unfold(_scores(_fold(scaled, keys.shape), keys), queries)
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        if bias is not None:
            score = score + bias.repeat_interleave(len(score) // len(bias), 0)
        scores.append(score)
    sizes = [score.shape[-1] for score in scores]
    if sinks is not None:
        scores.append(sinks[:, None, None].expand(*scores[0].shape[:3], 1).to(scores[0].dtype))
    weights = torch.cat(scores, -1).softmax(-1)[..., : sum(sizes)].to(queries.dtype)
    out = torch.zeros_like(queries)
    for (keys, values, _), weight in zip(spans, weights.split(sizes, -1), strict=True):
        folded = _fold(weight, keys.shape)
        out = out + _unfold(folded @ values if isinstance(values, Tensor) else values.sums(folded), queries)
    return out.transpose(1, 2).flatten(2)


def _scores(queries: Tensor, keys: Tensor | Int8Keys) -> Tensor:
    """(X, G, L, D) and (X, G, S, D) → (X, G, L, S)."""
    if not isinstance(keys, Tensor):
        return keys.scores(queries)
    if keys.device.type == "cpu" and keys.element_size() < 4:
        # Half-precision products with non-contiguous tensors are many times slower than a copy.
        keys = keys.contiguous()
    return queries @ keys.transpose(2, 3)


def _rows(tensor: Tensor, rows: range, batch: int) -> Tensor:
    """The part of a tensor, for all rows of a batch or for fewer texts, that belongs to some rows."""
    return tensor[rows[0] * len(tensor) // batch : rows[-1] * len(tensor) // batch + 1]


def _rows_of(span: tuple[Tensor, Tensor, Tensor | None], rows: range, batch: int) -> KeyValueSpan:
    keys, values, bias = span
    return _rows(keys, rows, batch), _rows(values, rows, batch), None if bias is None else _rows(bias, rows, batch)


def _spread(span: KeyValueSpan, queries: Tensor, start: int) -> Tensor:
    """The bias of a span's scores for queries (B, H, L, D) that begin at `start`: (B, 1, L, S)."""
    keys, _, bias = span
    if bias is None:
        bias = queries.new_zeros(1, 1, 1, 1)
    elif bias.shape[2] > 1:
        bias = bias[:, :, start : start + queries.shape[2]]
    return bias.expand(len(queries), 1, queries.shape[2], keys.shape[2])


def _fold(rows: Tensor, shape: torch.Size) -> Tensor:
    """(B, H, L, …) → (X, G, B/X · H/G · L, …) for keys of a shape (X, G, S, D), of X texts."""
    texts, groups = shape[:2]
    if len(rows) == texts:
        return rows.unflatten(1, (groups, -1)).flatten(2, 3)
    return rows.unflatten(0, (texts, -1)).unflatten(2, (groups, -1)).transpose(1, 2).flatten(2, 4)


def _unfold(folded: Tensor, queries: Tensor) -> Tensor:
    """(X, G, B/X · H/G · L, …) → (B, H, L, …), the queries' shape."""
    (batch, heads, length), (texts, groups) = queries.shape[:3], folded.shape[:2]
    if batch == texts:
        return folded.unflatten(2, (-1, length)).flatten(1, 2)
    return folded.unflatten(2, (batch // texts, heads // groups, length)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
