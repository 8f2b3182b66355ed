"""What differs between model families, in one table; everything else in the package is the same for all.

A decoder layer is described by how it feeds its attention, how the attention projects, and how the results are added up.
A family with other wiring (parallel residuals, say) is one more entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..utils.errors import UserError

# Numbers of the residual stream that an MLP takes at once, inside which there are several times as many: 2,048 tokens of 4,096.
_NUMBERS = 2**23

# Adds what is injected between attention and MLP to the residual stream.
Inject = Callable[[Tensor], Tensor]


def pre_norm_input(layer: nn.Module, hidden: Tensor) -> Tensor:
    return layer.input_layernorm(hidden)


def pre_norm_combine(layer: nn.Module, residual: Tensor, attended: Tensor, inject: Inject | None = None) -> Tensor:
    hidden = residual + attended
    if inject is not None:
        hidden = inject(hidden)
    return hidden + _in_pieces(layer, lambda some: layer.mlp(layer.post_attention_layernorm(some)), hidden)


def no_norm_input(layer: nn.Module, hidden: Tensor) -> Tensor:
    return hidden


def post_norm_combine(layer: nn.Module, residual: Tensor, attended: Tensor, inject: Inject | None = None) -> Tensor:
    """OLMo 2: norms stand behind attention and MLP."""
    hidden = residual + layer.post_attention_layernorm(attended)
    if inject is not None:
        hidden = inject(hidden)
    return hidden + _in_pieces(layer, lambda some: layer.post_feedforward_layernorm(layer.mlp(some)), hidden)


def _in_pieces(layer: nn.Module, work: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """What a layer's MLP and its norm make of (B, L, E), some tokens at a time where there are no gradients.

    Mixtures of experts take all at once: transformers records what a router decides call by call.
    """
    if hidden.numel() <= _NUMBERS or torch.is_grad_enabled() or hasattr(layer.mlp, "experts"):
        return work(hidden)
    flat = hidden.flatten(0, -2)[None]
    out, step = torch.empty_like(flat), max(1, _NUMBERS // hidden.shape[-1])
    for start in range(0, flat.shape[1], step):
        out[:, start : start + step] = work(flat[:, start : start + step])
    return out.view(hidden.shape)


def _heads(states: Tensor, head_dim: int, norm: nn.Module | None) -> Tensor:
    states = states.unflatten(-1, (-1, head_dim))
    return norm(states) if norm is not None else states


def separate_queries(attention: nn.Module, hidden: Tensor) -> Tensor:
    """(…, L, E) → (…, L, H, D), before RoPE; Qwen3 normalises each head."""
    return _heads(attention.q_proj(hidden), attention.head_dim, getattr(attention, "q_norm", None))


def separate_keys_values(attention: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """(…, L, E) → keys and values (…, L, G, D), keys before RoPE."""
    keys = _heads(attention.k_proj(hidden), attention.head_dim, getattr(attention, "k_norm", None))
    return keys, _heads(attention.v_proj(hidden), attention.head_dim, None)


def normed_queries(attention: nn.Module, hidden: Tensor) -> Tensor:
    """OLMo 2 normalises all heads together."""
    return _heads(attention.q_norm(attention.q_proj(hidden)), attention.head_dim, None)


def normed_keys_values(attention: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    keys = _heads(attention.k_norm(attention.k_proj(hidden)), attention.head_dim, None)
    return keys, _heads(attention.v_proj(hidden), attention.head_dim, None)


def fused_queries(attention: nn.Module, hidden: Tensor) -> Tensor:
    """Phi-3: queries, keys and values of one projection, one behind the other."""
    return _fused(attention, hidden)[0]


def fused_keys_values(attention: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return _fused(attention, hidden)[1:]


def _fused(attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = _heads(attention.qkv_proj(hidden), attention.head_dim, None)
    # H query heads, then G of keys and G of values: H + 2 G in all, H = G times the queries that share a key.
    groups = heads.shape[-2] // (attention.num_key_value_groups + 2)
    queries, keys, values = heads.split([heads.shape[-2] - 2 * groups, groups, groups], dim=-2)
    return queries, keys, values


@dataclass(frozen=True)
class Family:
    """How one kind of decoder layer is taken apart.

    attention       attribute of the layer that holds its self-attention
    attention_norm  attribute of the layer that holds the norm before self-attention; None if there is none
    output          attribute of the attention that holds its output projection
    attention_input (layer, hidden) → what self-attention reads
    combine         (layer, residual, attended, inject) → the layer's output
    queries         (attention, hidden) → query heads before RoPE
    keys_values     (attention, hidden) → key and value heads, keys before RoPE
    query_parts     submodules of the attention that queries and output need
    query_projections  those of them that project queries
    memory_parts    submodules of the attention that keys and values need
    """

    attention: str = "self_attn"
    attention_norm: str | None = "input_layernorm"
    output: str = "o_proj"
    attention_input: Callable[[nn.Module, Tensor], Tensor] = pre_norm_input
    combine: Callable[..., Tensor] = pre_norm_combine
    queries: Callable[[nn.Module, Tensor], Tensor] = separate_queries
    keys_values: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]] = separate_keys_values
    query_parts: tuple[str, ...] = ("q_proj", "o_proj")
    query_projections: tuple[str, ...] = ("q_proj",)
    memory_parts: tuple[str, ...] = ("k_proj", "v_proj")

    def norm_of(self, layer: nn.Module) -> nn.Module:
        """The norm before self-attention, or what leaves everything as it is."""
        return nn.Identity() if self.attention_norm is None else getattr(layer, self.attention_norm)


NORMED_HEADS = {"query_parts": ("q_proj", "q_norm", "o_proj"), "memory_parts": ("k_proj", "k_norm", "v_proj")}
FAMILIES: dict[str, Family] = {
    "arcee": Family(),
    "gemma": Family(),
    "llama": Family(),
    "ministral": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "olmo2": Family(
        attention_norm=None,
        attention_input=no_norm_input,
        combine=post_norm_combine,
        queries=normed_queries,
        keys_values=normed_keys_values,
        **NORMED_HEADS,
    ),
    "phi3": Family(
        queries=fused_queries,
        keys_values=fused_keys_values,
        query_parts=("qkv_proj", "o_proj"),
        query_projections=("qkv_proj",),
        memory_parts=("qkv_proj",),
    ),
    "qwen2": Family(),
    "qwen2_moe": Family(),
    "qwen3": Family(**NORMED_HEADS),
    "qwen3_moe": Family(**NORMED_HEADS),
    "seed_oss": Family(),
    "starcoder2": Family(),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The table entry of a base configuration.

    Raises:
        UserError: the family is not supported; names it and lists those that are.
    """
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        supported = ", ".join(sorted(FAMILIES))
        raise UserError(f"model_type={config.model_type!r} is not supported: use one of {supported}.") from None


def sliding_window(config: PreTrainedConfig, layer_index: int) -> int | None:
    """How many tokens back a layer's self-attention sees, itself included; None for all of them."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and layer_types[layer_index] != "sliding_attention":
        return None
    # Some configurations say 0 where there is none.
    return getattr(config, "sliding_window", None) or None
