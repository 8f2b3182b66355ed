"""Rotary positions of chunks and running text, with the base model's own RoPE (any of its scaling types)."""

import torch
from torch import Tensor, nn

# Cosines and sines (B, L, D) of L positions.
Rotation = tuple[Tensor, Tensor]


def rotation(rotary: nn.Module, positions: Tensor, like: Tensor) -> Rotation:
    """Cosines and sines of `positions` (B, L), in the dtype and on the device of `like`."""
    return rotary(like, position_ids=positions.to(like.device))


def rotate(heads: Tensor, by: Rotation) -> Tensor:
    """Rotate heads (B, H, L, D) by (B, L, D) or (1, L, D) cosines and sines; halves are paired, as in the families here.

    Where there are fewer of them than D (a partial rotary embedding), only the first numbers of each head turn.
    """
    cos, sin = (t.unsqueeze(1) for t in by)
    turned, still = heads.split([cos.shape[-1], heads.shape[-1] - cos.shape[-1]], dim=-1)
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, still], dim=-1) if still.shape[-1] else turned
