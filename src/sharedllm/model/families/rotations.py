"""The rotations of a decoder's layers, which may differ from layer to layer, at given positions."""

from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..rope import Rotation
from .table import family_of


class Rotations:
    """What each layer turns its heads by at some positions; what the rotary embedding computes is computed once a kind."""

    def __init__(self, rotary: nn.Module, config: PreTrainedConfig, positions: Tensor, like: Tensor):
        """
        Args:
            rotary, config: of the decoder. positions: (B, L). like: in whose dtype and on whose device they are wanted.
        """
        self._rotary, self._config, self._like = rotary, config, like
        self._positions = positions
        self._known: dict[str | None, tuple[Tensor, Tensor]] = {}

    @cached_property
    def positions(self) -> Tensor:
        """(B, L), on the device of the rest."""
        return self._positions.to(self._like.device)

    def given(self, index: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines as transformers hands them to the self-attention of a layer."""
        kind = self._config.layer_types[index] if family_of(self._config).rotary_by_type else None
        if kind not in self._known:
            more = {} if kind is None else {"layer_type": kind}
            self._known[kind] = self._rotary(self._like, position_ids=self.positions, **more)
        return self._known[kind]

    def queries(self, index: int, attention: Any) -> Rotation:
        """Of the queries of an attention in a layer: its self-attention, or what stands for it."""
        return family_of(self._config).turn(attention, self.given(index), self.positions)[0]

    def keys(self, index: int, attention: Any) -> Rotation:
        """Of its keys."""
        return family_of(self._config).turn(attention, self.given(index), self.positions)[1]
