"""Keys and values of the running text with room behind them: a token is written, where transformers would copy all."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# Tokens that room is made for at once.
ROOM = 256


class RoomyLayer(DynamicLayer):
    """A layer of a DynamicCache whose keys and values (B, G, n, D) are the beginning of larger tensors.

    Where gradients are recorded it joins them as transformers does: what autograd has seen must not be written to.
    """

    _rooms: tuple[Tensor, ...] = ()

    def __init__(self, room: int = 0):
        """
        Args:
            room: tokens that there will be, for which room is made at once.
        """
        super().__init__()
        self._room = room

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        # Re-ordered, selected or moved keys are other tensors; shortened ones are still the beginning of the same.
        if not length or not self._rooms or end > self._rooms[0].shape[-2] or not self._begin_rooms():
            shape = (*key_states.shape[:-2], self._room if end <= self._room else -(-(end + 1) // ROOM) * ROOM)
            self._rooms = tuple(t.new_empty(*shape, t.shape[-1]) for t in (key_states, value_states))
            if length:
                self._rooms[0][..., :length, :], self._rooms[1][..., :length, :] = self.keys, self.values
        self._rooms[0][..., length:end, :], self._rooms[1][..., length:end, :] = key_states, value_states
        self.keys, self.values = (room[..., :end, :] for room in self._rooms)
        return self.keys, self.values

    def reset(self) -> None:
        self._rooms = ()
        super().reset()

    def _begin_rooms(self) -> bool:
        """Whether keys and values lie where the rooms begin."""
        return all(
            held.data_ptr() == room.data_ptr() and held.shape[:-2] == room.shape[:-2] and held.stride() == room.stride()
            for held, room in zip((self.keys, self.values), self._rooms, strict=True)
        )


def with_room(cache: Cache | None, config: Any, room: int = 0) -> Cache:
    """A cache that makes room; of one that is given and empty, the plain layers are exchanged, others are left as they are.

    Args:
        config: the base's. room: tokens that there will be, if that is known.
    """
    cache = DynamicCache(config=config) if cache is None else cache
    if type(cache) is DynamicCache and not cache.offloading and not cache.get_seq_length():
        cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
        if cache.layer_class_to_replicate is DynamicLayer:
            cache.layer_class_to_replicate = partial(RoomyLayer, room)
    return cache
