"""The memory of the windows read so far, and the attention between a window, its beacons and the memory."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...model.rope import rotate, rotation

# Keys and values (B, G, S, D) of one layer.
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BeaconMemory:
    """Keys before RoPE and values of sinks and beacons, in the order of the text.

    layers   keys and values (B, G, S, D) of each layer
    mask     (B, S) bool, True where there is a token
    sinks    (B, S) bool, True for sinks, raw tokens that stay
    lengths  (B,) raw tokens read so far
    ratios   (B,) raw tokens per beacon
    rotated  whether keys have been rotated to their places in the memory
    """

    layers: tuple[Pair, ...]
    mask: Tensor
    sinks: Tensor
    lengths: Tensor
    ratios: Tensor
    rotated: bool = False

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def counts(self) -> Tensor:
        """(B,) tokens in the memory."""
        return self.mask.sum(1)

    def rotate(self, rotary: nn.Module) -> "BeaconMemory":
        """The memory with its keys at positions 0, 1, 2, …"""
        if self.rotated or not self.mask.shape[1]:
            return self
        by = rotation(rotary, (self.mask.cumsum(1) - 1).clamp(min=0), self.layers[0][0])
        return replace(self, layers=tuple((rotate(keys, by), values) for keys, values in self.layers), rotated=True)

    def append(self, layers: list[Pair], mask: Tensor, sinks: Tensor, read: Tensor, room: int) -> "BeaconMemory":
        """The memory followed by what a window leaves; if it exceeds `room`, the oldest beacons are dropped."""
        mask, sinks = torch.cat([self.mask, mask], 1), torch.cat([self.sinks, sinks], 1)
        beacons = mask & ~sinks
        from_end = beacons.flip(1).cumsum(1).flip(1)
        mask = mask & (sinks | (from_end <= room - sinks.sum(1, keepdim=True)))
        left = mask.any(0)
        joined = tuple(
            (torch.cat([k, new_k], 2)[:, :, left], torch.cat([v, new_v], 2)[:, :, left])
            for (k, v), (new_k, new_v) in zip(self.layers, layers, strict=True)
        )
        return replace(self, layers=joined, mask=mask[:, left], sinks=sinks[:, left], lengths=self.lengths + read)


@dataclass(frozen=True)
class Places:
    """Raw tokens of a window, then its beacons: the position of each and what it sees.

    mask       (B, N) bool, False for padding and for beacons without raw tokens
    positions  (B, N) positions, after the memory
    allowed    (B, N, N) bool, what each sees of the window; at least one
    """

    mask: Tensor
    positions: Tensor
    allowed: Tensor


def interleave(mask: Tensor, ratios: Tensor | None, before: Tensor) -> Places:
    """Places of a window with a beacon after every α-th raw token and after the last; without α, raw tokens alone.

    Args:
        mask: (B, L) of the raw tokens. ratios: (B,) α. before: (B,) tokens in the memory.
    """
    batch, length = mask.shape
    order = torch.arange(length, device=mask.device, dtype=torch.float32).expand(batch, -1)
    if ratios is not None:
        beacons = torch.arange(-(-length // int(ratios.min())), device=mask.device)
        # Counted from the first token after the padding.
        starts = length - mask.sum(1, keepdim=True) + beacons * ratios[:, None]
        ends = (starts + ratios[:, None]).clamp(max=length)
        seen = pad(mask.cumsum(1), (1, 0))
        held = seen.gather(1, ends) - seen.gather(1, starts.clamp(max=length))
        mask, order = torch.cat([mask, held > 0], 1), torch.cat([order, ends - 0.5], 1)
    earlier = mask[:, None] & (order[:, None] < order[..., None])
    itself = torch.eye(order.shape[1], dtype=torch.bool, device=mask.device)
    return Places(mask, before[:, None] + earlier.sum(-1), earlier | itself)
