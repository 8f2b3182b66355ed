"""The encoder's states of a context's tokens, or each decoder layer's projections of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...utils.errors import UserError

# Keys and values (B, G, S, D) of one layer.
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class CepeMemory:
    """Every token of a context; attention over it has no positions.

    states  (B, S, E') of the encoder, or None if they are projected already
    layers  keys and values (B, G, S, D) of each decoder layer, or None if each forward pass projects them
    mask    (B, S) bool, True where there is a token
    """

    states: Tensor | None
    layers: tuple[Pair, ...] | None
    mask: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def allowed(self) -> Tensor:
        """(B, 1, 1, S) bool, never all False in a row, because attention over nothing is undefined."""
        return (self.mask | ~self.mask.any(1, keepdim=True))[:, None, None]

    @property
    def present(self) -> Tensor:
        """(B, 1, 1) bool, False for texts without any context."""
        return self.mask.any(1)[:, None, None]

    def index_select(self, rows: list[int]) -> "CepeMemory":
        """The texts `rows`, in that order."""
        layers = None if self.layers is None else tuple((k[rows], v[rows]) for k, v in self.layers)
        return replace(
            self, states=None if self.states is None else self.states[rows], layers=layers, mask=self.mask[rows]
        )

    def append(self, other: "CepeMemory") -> "CepeMemory":
        """Concatenate both contexts of each text."""
        if (self.layers is None) != (other.layers is None):
            raise UserError("one memory is projected and the other is not: read both with the same project=…")
        layers = states = None
        if self.layers is not None and other.layers is not None:
            layers = tuple(
                (torch.cat([k, more_k], 2), torch.cat([v, more_v], 2))
                for (k, v), (more_k, more_v) in zip(self.layers, other.layers, strict=True)
            )
        if self.states is not None and other.states is not None:
            states = torch.cat([self.states, other.states], 1)
        return CepeMemory(states, layers, torch.cat([self.mask, other.mask], 1))
