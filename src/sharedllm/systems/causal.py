"""Full attention over a cache by a kernel with built-in causal masking, where transformers would build a mask."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from ..model.kernels import are_few, attend_few


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA for queries (B, H, L, D) that are the last of the keys (B, G, S, D), by a kernel with built-in causal masking."""
    from torch.nn.attention.bias import causal_lower_right

    length, total = query.shape[2], key.shape[2]
    if length == 1 and are_few(query.shape, key.shape):
        out = attend_few(query, [(key, value, None)], query.shape[3] ** -0.5 if scaling is None else scaling)
        return out.unflatten(2, (query.shape[1], -1)), None
    mask = None
    if 1 < length < total:
        if query.device.type == "cuda":
            mask = causal_lower_right(length, total)
        elif torch.backends.cuda.flash_sdp_enabled() and not torch.is_grad_enabled():
            return _in_two_parts(query, key, value, scaling).transpose(1, 2).contiguous(), None
        else:
            mask = torch.ones(length, total, dtype=torch.bool, device=query.device).tril(total - length)
    grouped = query.shape[1] != key.shape[1]
    alone = 1 < length == total
    out = scaled_dot_product_attention(query, key, value, mask, 0.0, alone, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous(), None


def _in_two_parts(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """The same on a CPU, (B, H, L, D): everything before the queries without a mask, and their own tokens causally, in one
    softmax. A mask of L × S costs 1.1 to 1.5 times as much."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    (heads, length), groups = query.shape[1:3], key.shape[1]
    before = key.shape[2] - length
    # The heads of a group see the same keys, so they are more queries.
    folded = query.unflatten(1, (groups, -1)).flatten(2, 3)
    far, far_sum = attend(folded, key[:, :, :before], value[:, :, :before], scale=scaling)
    own = (t[:, :, before:].repeat_interleave(heads // groups, 1) for t in (key, value))
    near, near_sum = attend(query, *own, is_causal=True, scale=scaling)
    # Logarithms of the sums of each part's exponentials give its share of the softmax.
    share = torch.sigmoid(far_sum.reshape(near_sum.shape) - near_sum)[..., None]
    return torch.lerp(near.float(), far.reshape(near.shape).float(), share).to(query.dtype)


# Without a mask function of the same name transformers builds no mask.
AttentionInterface.register("causal_sdpa", causal_attention)


def with_causal_attention(model: PreTrainedModel) -> PreTrainedModel:
    """A model that shares its weights with `model`, but uses `causal_attention` and has its own configuration."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    causal = copy.deepcopy(model, shared)
    causal.set_attn_implementation("causal_sdpa")
    return causal
