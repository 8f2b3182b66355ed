"""Positions of a memory's kept tokens, and the rotation of heads to them by the cosines and sines of the base's own
rotary embedding."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..memory.context_memory import ContextMemory


class Rotation(NamedTuple):
    """The rotation of heads at L positions; the first two fields are what transformers passes to self-attention.

    cos, sin     (B, L, D), or fewer than D numbers where only the first ones of each head are rotated
    interleaved  whether numbers 2 i and 2 i + 1 of a head form a pair; else i and i + D/2
    """

    cos: Float[Tensor, "B L D"]
    sin: Float[Tensor, "B L D"]
    interleaved: bool = False

    def scaled(self, factor: Float[Tensor, " *shape"]) -> "Rotation":
        """The rotation times a factor, broadcastable to (B, L, D)."""
        return self._replace(cos=self.cos * factor, sin=self.sin * factor)

    def at(self, index: slice | Int[Tensor, " *places"]) -> "Rotation":
        """Cosines and sines of some positions, for a rotation of one row: a slice, or indices (…) giving (…, D)."""
        pick = (slice(None), index) if isinstance(index, slice) else (0, index)
        return self._replace(cos=self.cos[pick], sin=self.sin[pick])


def key_positions(memory: ContextMemory, config: Any) -> Int[Tensor, "B S"]:
    """(B, S) positions that the keys of a memory are rotated to; `config` is the SharedLLM's.

    With cross-attention chunk i is at i, and the queries at n, the number of chunks (paper); `key_position` "offset"
    adds a key's offset in its chunk. In a joint softmax the running text begins at 0 and positions count back from it:
    chunk i is at i − n, or with "offset" each token at its distance before the running text. No key is farther away
    than `reach` chunks, or the window. With injection "deep" nothing is rotated here: `deepen` reads the selected tokens
    at consecutive positions after the prefix.
    """
    if config.injection == "joint":
        if config.key_position == "offset":
            return (memory.position - memory.lengths[:, None]).clamp(min=-config.window)
        return (memory.chunk - memory.chunks[:, None]).clamp(min=-config.reach)
    if config.key_position == "offset":
        return memory.chunk + memory.position - memory.chunk * memory.chunk_size
    return memory.chunk


def rotation(rotary: nn.Module, positions: Int[Tensor, "B L"], like: Tensor) -> Rotation:
    """Cosines and sines of `positions` (B, L), in the dtype and on the device of `like`, for bases whose layers all
    rotate alike."""
    return Rotation(*rotary(like, position_ids=positions.to(like.device)))


def rotate(heads: Float[Tensor, "B H L D"], by: Rotation | tuple[Tensor, Tensor]) -> Float[Tensor, "B H L D"]:
    """Rotate heads (B, H, L, D) by (B, L, D) or (1, L, D) cosines and sines.

    If there are fewer than D of them (a partial rotary embedding), only the first numbers of each head are rotated.
    """
    by = by if isinstance(by, Rotation) else Rotation(*by)
    cos, sin = by.cos.unsqueeze(1), by.sin.unsqueeze(1)
    turned, still = heads.split([cos.shape[-1], heads.shape[-1] - cos.shape[-1]], dim=-1)
    if by.interleaved:
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        across = torch.cat([-second, first], dim=-1)
    # Some families rotate in single precision, whatever the heads' dtype.
    turned = (turned * cos + across * sin).to(heads.dtype)
    return torch.cat([turned, still], dim=-1) if still.shape[-1] else turned
