"""Injection: how a layer of the upper model reads a memory. All kinds share one interface, so no other code asks for
the kind."""

import copy
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from .families import Family
from .families.wiring import Inject


class KeyValueProjection(nn.Module):
    """Key and value projections for an upper layer that reads a lower layer other than its twin."""

    def __init__(self, layer: nn.Module, family: Family):
        super().__init__()
        self.norm = copy.deepcopy(family.norm_of(layer))
        attention = getattr(layer, family.attention)
        family.lend_traits(attention, self)
        for name, part in family.parts(attention, family.memory_parts).items():
            setattr(self, name, copy.deepcopy(part))


class Injection(nn.Module, ABC):
    """Reads a memory in one layer.

    projection  projects the memory's keys and values for this layer; None: the lower layer's own attention does
    gate        one number; the result is multiplied by its tanh. None without a gate
    """

    projection: KeyValueProjection | None
    gate: nn.Parameter | None

    @abstractmethod
    def memory_attention(
        self, attention: Any, normed: Tensor, layer_index: int, memory: Any, **kwargs
    ) -> tuple[Tensor, Inject | None]:
        """The layer's attention, with a memory.

        Args:
            attention: the layer's self-attention. normed: (B, L, E), its input.
            memory: prepared for the upper model.
            kwargs: as transformers passes them to self-attention.

        Returns:
            The output in place of self-attention's, (B, L, E); and a function (B, L, E) → (B, L, E) applied to the
            residual stream before the MLP, or None.
        """


def injection_of(layer: nn.Module) -> Injection:
    """The layer's injection.

    Raises:
        TypeError: it has none.
    """
    injection = getattr(layer, "injection", None)
    if not isinstance(injection, Injection):
        raise TypeError(f"{type(layer).__name__} reads no memory.")
    return injection
