"""Attention of chosen queries over chosen keys, through the attention interface of transformers."""

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

IMPLEMENTATIONS = ("eager", "sdpa")


def attend(
    module: nn.Module, implementation: str, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor
) -> Tensor:
    """Attention where `allowed` says so; never causal by itself.

    Args:
        module: has `num_key_value_groups`, `scaling` and `training`.
        implementation: "eager" or "sdpa".
        queries: (B, H, L, D). keys, values: (B, G, S, D).
        allowed: broadcastable to (B, 1, L, S): bool, True to attend, or numbers to be added to scores; every query needs
            at least one key.

    Returns:
        (B, L, H · D).
    """
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    allowed = allowed.expand(len(queries), 1, queries.shape[2], keys.shape[2])
    if implementation == "eager" and allowed.dtype == torch.bool:
        bias = torch.zeros(allowed.shape, dtype=queries.dtype, device=queries.device)
        mask = bias.masked_fill(~allowed, torch.finfo(queries.dtype).min)
    else:
        mask = allowed
    out, _ = function(module, queries, keys, values, mask, scaling=module.scaling, is_causal=False)
    return out.flatten(2)
