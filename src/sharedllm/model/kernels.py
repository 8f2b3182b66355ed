"""Chooses the kernel of an attention (`kernel`, for the whole package), and has our own kernels.

| kernel | what it does | good for |
|---|---|---|
| products | plain products by groups of heads; several spans of keys are never copied | few queries; bounded scores and sinks, which no other has |
| shared | SDPA whose rows and heads with the same keys are queries one after the other | many queries that all see the same keys |
| grouped | SDPA that reads the keys of grouped heads where they lie | a CPU without gradients |
| library | what transformers has by that name | everything else: gradients, eager, a GPU |
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..memory.int8 import Int8Keys, Int8Values

# Keys and values (B, G, S, D), and a bias added to their scores, broadcastable to (B, 1, L, S), or None.
# Several with different X and S may go into one softmax: only the number of dimensions is checked.
KeyValueSpan = tuple[
    Float[Tensor, "_ _ _ _"] | Int8Keys, Float[Tensor, "_ _ _ _"] | Int8Values, Float[Tensor, "_ 1 _ _"] | None
]

Kernel = Literal["products", "shared", "grouped", "library"]


def kernel(
    implementation: str,
    queries: Sequence[int],
    keys: Sequence[int],
    device: torch.device,
    *,
    seen: Literal["masked", "all", "spans", "own"],
    own_scores: bool = False,
    masked: bool = True,
) -> Kernel:
    """The kernel for an attention.

    Args:
        implementation: the configuration's: "eager" or "sdpa".
        queries: shape (B, H, L, D). keys: shape (X, G, S, D).
        seen: the keys that a query sees: "masked", different keys for each query; "all" keys of its text; two "spans"
            of keys, which only products take directly (for any other result concatenate them first); or its "own" text,
            as in the base's self-attention, which is left to transformers wherever that is equally good.
        own_scores: whether scores are capped or have sinks.
        masked: for "own": whether there is a mask besides the causal one.
    """
    if own_scores:
        return "products"
    few, inference = are_few(queries, keys), not torch.is_grad_enabled()
    sdpa, grouped = implementation == "sdpa", queries[1] > keys[1]
    cpu = inference and device.type == "cpu"
    if seen == "all":
        return "products" if few or implementation == "eager" else "shared"
    if seen == "spans":
        return "products" if few else "library"
    if seen == "masked":
        if sdpa and inference and few:
            return "products"
        return "grouped" if sdpa and cpu else "library"
    # On a CPU kernels made for many queries take ten times as long for a few in half precision, and transformers
    # repeats keys and values for the heads of a group if there is a mask.
    if sdpa and cpu and few:
        return "products"
    return "grouped" if sdpa and cpu and grouped and masked else "library"


def are_few(queries: Sequence[int], keys: Sequence[int]) -> bool:
    """Whether queries of a shape (B, H, L, D) have few scores, at most a quarter of the numbers in keys (X, G, S, D).

    Then reading keys and values dominates, and kernels made for many queries only cost time.
    """
    # S is in both, so it is left out.
    return 4 * queries[0] * queries[1] * queries[2] <= keys[0] * keys[1] * keys[3]


def attend_groups(
    queries: Float[Tensor, "B H L D"],
    keys: Float[Tensor, "B G S D"],
    values: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "#B 1 L S"] | Float[Tensor, "#B 1 L S"],
    scaling: float,
) -> Float[Tensor, "B L H*D"]:
    """SDPA of queries (B, H, L, D) without repeating keys and values (B, G, S, D) for the heads of a group, as
    transformers would.

    Args:
        mask: (B or 1, 1, L, S).

    Returns:
        (B, L, H · D).
    """
    out = scaled_dot_product_attention(queries, keys, values, mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def attend_shared(
    queries: Float[Tensor, "B H L D"],
    keys: Float[Tensor, "X G S D"],
    values: Float[Tensor, "X G S D"],
    bias: Float[Tensor, "_ 1 1 S"] | None,
    scaling: float,
) -> Float[Tensor, "B L H*D"]:
    """SDPA of queries (B, H, L, D) that all see the same keys (X, G, S, D) of their text.

    Args:
        bias: (X, 1, 1, S), added to scores, or None.

    Returns:
        (B, L, H · D).
    """
    # Queries with the same keys can be concatenated: the heads of a group and the rows of a text become queries.
    folded = scaled_dot_product_attention(_fold(queries, keys.shape), keys, values, attn_mask=bias, scale=scaling)
    return _unfold(folded, queries).transpose(1, 2).flatten(2)


def attend_few(
    queries: Float[Tensor, "B H L D"],
    spans: Sequence[KeyValueSpan],
    scaling: float,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B L H*D"]:
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


def _scores(queries: Float[Tensor, "X G L D"], keys: Float[Tensor, "X G S D"] | Int8Keys) -> Float[Tensor, "X G L _"]:
    """(X, G, L, D) and (X, G, S, D) → (X, G, L, S)."""
    if not isinstance(keys, Tensor):
        return keys.scores(queries)
    if keys.device.type == "cpu" and keys.element_size() < 4:
        # Half-precision products with non-contiguous tensors are many times slower than a copy.
        keys = keys.contiguous()
    return queries @ keys.transpose(2, 3)


def _fold(rows: Float[Tensor, "B H L _"], shape: torch.Size) -> Float[Tensor, "X G _ _"]:
    """(B, H, L, …) → (X, G, B/X · H/G · L, …) for keys of a shape (X, G, S, D), of X texts."""
    texts, groups = shape[:2]
    if len(rows) == texts:
        return rows.unflatten(1, (groups, -1)).flatten(2, 3)
    return rows.unflatten(0, (texts, -1)).unflatten(2, (groups, -1)).transpose(1, 2).flatten(2, 4)


def _unfold(folded: Float[Tensor, "X G _ d"], queries: Float[Tensor, "B H L D"]) -> Float[Tensor, "B H L d"]:
    """(X, G, B/X · H/G · L, …) → (B, H, L, …), the queries' shape."""
    (batch, heads, length), (texts, groups) = queries.shape[:3], folded.shape[:2]
    if batch == texts:
        return folded.unflatten(2, (-1, length)).flatten(1, 2)
    return folded.unflatten(2, (batch // texts, heads // groups, length)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
