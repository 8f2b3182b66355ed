"""How an attention rotates its heads, given the cosines and sines (B, L, D) of its positions from transformers.

All differences are put into the rotation itself, so that no other code needs to know them: a layer without positions
has the identity, and factors of rotated heads become factors of cosines and sines.
"""

from typing import Any

import torch
from torch import Tensor

from ..rope import Rotation

CosSin = tuple[Tensor, Tensor]


def as_given(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    same = Rotation(*by)
    return same, same


def _nothing(by: CosSin) -> Rotation:
    return Rotation(torch.ones_like(by[0]), torch.zeros_like(by[1]))


def where_used(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """SmolLM3: some layers have no positions."""
    same = Rotation(*by) if attention.use_rope else _nothing(by)
    return same, same


def interleaved(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """GLM, Helium and ERNIE 4.5 pair neighbours, but the angles come in the layout for paired halves."""
    cos, sin = (t[..., : t.shape[-1] // 2].repeat_interleave(2, dim=-1) for t in by)
    same = Rotation(cos, sin, interleaved=True)
    return same, same


def neighbours(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """Cohere pairs neighbours, and rotates in single precision."""
    same = Rotation(by[0].float(), by[1].float(), interleaved=True)
    return same, same


def neighbours_where_sliding(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """Cohere 2: layers with full attention have no positions."""
    if attention.sliding_window is None:
        return _nothing(by), _nothing(by)
    return neighbours(attention, by, positions)


def sharpened(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """Ministral 3: queries far from the beginning are scaled up, in steps of the original training length."""
    same, rope = Rotation(*by), attention.config.rope_parameters
    beta, original = rope.get("llama_4_scaling_beta"), rope.get("original_max_position_embeddings")
    if positions is None or beta is None or original is None:
        return same, same
    scale = 1 + beta * torch.log(1 + torch.floor(positions.clamp(min=0) / original))
    return same.scaled(scale[..., None].to(same.cos)), same


def weighted(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """Hunyuan: the weights of the norms that come after RoPE (see `projections.unweighted_queries`)."""
    norms = (getattr(attention, name, None) for name in ("query_layernorm", "key_layernorm"))
    # A module that reads a memory has only the norm that it needs.
    queries, keys = (Rotation(*by) if norm is None else Rotation(*by).scaled(norm.weight) for norm in norms)
    return queries, keys


def doubled(attention: Any, by: CosSin, positions: Tensor | None) -> tuple[Rotation, Rotation]:
    """gpt-oss gives the angle of each pair once."""
    cos, sin = by
    same = Rotation(torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1))
    return same, same
