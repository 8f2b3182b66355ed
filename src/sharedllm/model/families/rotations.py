"""The rotations of a decoder's layers at given positions. They may differ from layer to layer."""

from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..rope import Rotation
from .table import family_of


class Rotations:
    """Each layer's rotation at some positions. The rotary embedding runs once for each kind of layer."""

    def __init__(self, rotary: nn.Module, config: PreTrainedConfig, positions: Tensor, like: Tensor):
        """
        Args:
            rotary, config: of the decoder. positions: (B, L). like: a tensor whose dtype and device the results get.
        """
        self._rotary, self._config, self._like = rotary, config, like
        self._positions = positions
        self._known: dict[str | None, tuple[Tensor, Tensor]] = {}

    @cached_property
    def positions(self) -> Tensor:
        """(B, L), on the rotations' device."""
        return self._positions.to(self._like.device)

    def given(self, index: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines as transformers passes them to a layer's self-attention."""
        kind = self._config.layer_types[index] if family_of(self._config).rotary_by_type else None
        if kind not in self._known:
            more = {} if kind is None else {"layer_type": kind}
            self._known[kind] = self._rotary(self._like, position_ids=self.positions, **more)
        return self._known[kind]

    def queries(self, index: int, attention: Any) -> Rotation:
        """Rotation of an attention's queries in a layer: its self-attention, or a replacement."""
        return family_of(self._config).turn(attention, self.given(index), self.positions)[0]

    def keys(self, index: int, attention: Any) -> Rotation:
        """Rotation of its keys."""
        return family_of(self._config).turn(attention, self.given(index), self.positions)[1]
