"""What reads a memory in a layer of the upper model: one call for all kinds, so that nothing else asks which kind it is."""

import copy
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from .families import Family
from .families.wiring import Inject


class KeyValueProjection(nn.Module):
    """Key and value projections of its own, for an upper layer that reads a lower layer other than its twin."""

    def __init__(self, layer: nn.Module, family: Family):
        super().__init__()
        self.norm = copy.deepcopy(family.norm_of(layer))
        attention = getattr(layer, family.attention)
        family.lend_traits(attention, self)
        for name, part in family.parts(attention, family.memory_parts).items():
            setattr(self, name, copy.deepcopy(part))


class Injection(nn.Module, ABC):
    """What reads a memory in one layer.

    projection  what the memory's keys and values for this layer are projected by; None: by the lower layer's own attention
    gate        one number; what is read is multiplied by its tanh. None without a gate
    """

    projection: KeyValueProjection | None
    gate: nn.Parameter | None

    @abstractmethod
    def memory_attention(
        self, attention: Any, normed: Tensor, layer_index: int, memory: Any, **kwargs
    ) -> tuple[Tensor, Inject | None]:
        """The layer's attention, with a memory.

        Args:
            attention: the layer's self-attention. normed: (B, L, E), what it reads.
            memory: made ready for the upper model.
            kwargs: as transformers gives them to self-attention.

        Returns:
            What stands for self-attention's output, (B, L, E); and what is then done to the residual stream, (B, L, E) →
            (B, L, E), before the MLP: None for nothing.
        """


def injection_of(layer: nn.Module) -> Injection:
    """What reads the memory in a layer.

    Raises:
        TypeError: nothing does.
    """
    injection = getattr(layer, "injection", None)
    if not isinstance(injection, Injection):
        raise TypeError(f"{type(layer).__name__} reads no memory.")
    return injection
