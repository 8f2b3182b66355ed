"""A cache that allocates spare capacity for keys and values: a new token is written in place, where transformers copies
everything."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# Capacity is allocated for so many tokens at a time.
ROOM = 256


class RoomyLayer(DynamicLayer):
    """A layer of a DynamicCache whose keys and values (B, G, n, D) are the beginning of larger tensors.

    With gradients it concatenates as transformers does, because tensors that autograd has recorded must not be overwritten.
    """

    _rooms: tuple[Tensor, ...] = ()

    def __init__(self, room: int = 0):
        """
        Args:
            room: expected number of tokens, allocated at once.
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
        held = (self.keys, self.values) if length and self.keys is not None and self.values is not None else None
        # Re-ordered, selected or moved keys are new tensors; cropped ones are still the beginning of the allocated tensors.
        if held is None or not self._rooms or end > self._rooms[0].shape[-2] or not _begin(self._rooms, held):
            shape = (*key_states.shape[:-2], self._room if end <= self._room else -(-(end + 1) // ROOM) * ROOM)
            self._rooms = tuple(t.new_empty(*shape, t.shape[-1]) for t in (key_states, value_states))
            if held is not None:
                self._rooms[0][..., :length, :], self._rooms[1][..., :length, :] = held
        self._rooms[0][..., length:end, :], self._rooms[1][..., length:end, :] = key_states, value_states
        keys, values = (room[..., :end, :] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values

    def reset(self) -> None:
        self._rooms = ()
        super().reset()


def _begin(rooms: tuple[Tensor, ...], held: tuple[Tensor, Tensor]) -> bool:
    """Whether keys and values are views of the beginning of the allocated tensors."""
    return all(
        tensor.data_ptr() == room.data_ptr()
        and tensor.shape[:-2] == room.shape[:-2]
        and tensor.stride() == room.stride()
        for tensor, room in zip(held, rooms, strict=True)
    )


def _with_room(room: int) -> type[RoomyLayer]:
    """The class of layers that allocate for `room` tokens at once."""
    if not room:
        return RoomyLayer

    class Layer(RoomyLayer):
        def __init__(self) -> None:
            super().__init__(room)

    return Layer


def with_room(cache: Cache | None, config: Any, room: int = 0) -> Cache:
    """A cache with spare capacity. In a given, empty cache the plain layers are replaced; any other cache is left as it is.

    Args:
        config: the base's. room: expected number of tokens, if known.
    """
    cache = DynamicCache(config=config) if cache is None else cache
    if type(cache) is DynamicCache and not cache.offloading and not cache.get_seq_length():
        cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
        if cache.layer_class_to_replicate is DynamicLayer:
            cache.layer_class_to_replicate = _with_room(room)
    return cache
