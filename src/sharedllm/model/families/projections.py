"""How an attention projects states to heads."""

from typing import Any

from torch import Tensor, nn


def _heads(states: Tensor, head_dim: int, norm: nn.Module | None = None) -> Tensor:
    states = states.unflatten(-1, (-1, head_dim))
    return norm(states) if norm is not None else states


def separate_queries(attention: Any, hidden: Tensor) -> Tensor:
    """(…, L, E) → (…, L, H, D), before RoPE; Qwen3 normalises each head."""
    return _heads(attention.q_proj(hidden), attention.head_dim, getattr(attention, "q_norm", None))


def separate_keys_values(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(…, L, E) → keys and values (…, L, G, D), keys before RoPE."""
    keys = _heads(attention.k_proj(hidden), attention.head_dim, getattr(attention, "k_norm", None))
    return keys, _heads(attention.v_proj(hidden), attention.head_dim)


def normed_queries(attention: Any, hidden: Tensor) -> Tensor:
    """OLMo 2 normalises all heads together."""
    return _heads(attention.q_norm(attention.q_proj(hidden)), attention.head_dim)


def normed_keys_values(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    keys = _heads(attention.k_norm(attention.k_proj(hidden)), attention.head_dim)
    return keys, _heads(attention.v_proj(hidden), attention.head_dim)


def clipped_queries(attention: Any, hidden: Tensor) -> Tensor:
    """OLMo clips projections if its configuration says so."""
    return _heads(_clip(attention, attention.q_proj(hidden)), attention.head_dim)


def clipped_keys_values(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = (_clip(attention, project(hidden)) for project in (attention.k_proj, attention.v_proj))
    return _heads(keys, attention.head_dim), _heads(values, attention.head_dim)


def _clip(attention: Any, states: Tensor) -> Tensor:
    most = attention.config.clip_qkv
    return states if most is None else states.clamp(-most, most)


def head_normed_queries(attention: Any, hidden: Tensor) -> Tensor:
    """StableLM normalises each head with its own norm if its configuration says so."""
    return _head_normed(attention.q_proj(hidden), attention, "q_layernorm")


def head_normed_keys_values(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    keys = _head_normed(attention.k_proj(hidden), attention, "k_layernorm")
    return keys, _heads(attention.v_proj(hidden), attention.head_dim)


def _head_normed(states: Tensor, attention: Any, name: str) -> Tensor:
    heads, norm = _heads(states, attention.head_dim), getattr(attention, name, None)
    if norm is None:
        return heads
    # Its norms take heads (B, H, L, D), but the input here may lack a batch dimension.
    flat = heads.flatten(0, -3)[:, :, None]
    return norm(flat).view(heads.shape)


def fused_queries(attention: Any, hidden: Tensor) -> Tensor:
    """Phi-3: one projection gives queries, keys and values, concatenated."""
    return _fused(attention, hidden)[0]


def fused_keys_values(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return _fused(attention, hidden)[1:]


def _fused(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = _heads(attention.qkv_proj(hidden), attention.head_dim)
    # H query heads, then G key heads and G value heads: H + 2 G in all, where H = G times the queries per key.
    groups = heads.shape[-2] // (attention.num_key_value_groups + 2)
    queries, keys, values = heads.split([heads.shape[-2] - 2 * groups, groups, groups], dim=-2)
    return queries, keys, values


def unweighted_queries(attention: Any, hidden: Tensor) -> Tensor:
    """Hunyuan normalises each head after RoPE. RoPE does not change a head's norm, so everything but the norm's weights
    can be applied before; the weights are in the rotation (see `turning.weighted`)."""
    return _unweighted(_heads(attention.q_proj(hidden), attention.head_dim), attention.query_layernorm)


def unweighted_keys_values(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    keys = _unweighted(_heads(attention.k_proj(hidden), attention.head_dim), attention.key_layernorm)
    return keys, _heads(attention.v_proj(hidden), attention.head_dim)


def _unweighted(heads: Tensor, norm: Any) -> Tensor:
    wide = heads.float()
    return (wide * (wide.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()).to(heads.dtype)
