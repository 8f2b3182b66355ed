"""One softmax over a memory and the running text, in the base's own self-attention.

What the base can find in its window, it can find in a memory too, without training, if the lower model reads deep
enough (`sharedllm diagnose` shows this). The memory's keys come before the running text, which begins at position 0.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import attend_joined
from .cross_attention import PreparedMemory
from .families import Family
from .injection import Injection, KeyValueProjection
from .kernels import KeyValueSpan
from .self_attention import operands


class JointAttention(Injection):
    """W_o softmax(q [k_memory, k]ᵀ / √D + [b, 0]) [v_memory, v]; new are only the key and value projections where
    another layer is read.

    b = −log(max(1, S / W)) for S kept tokens and a window of W.
    """

    def __init__(self, layer: nn.Module, family: Family, own_projection: bool):
        """
        Args:
            layer: the decoder layer whose self-attention reads the memory.
            own_projection: the layer reads a lower layer other than its twin, through its own projections.
        """
        super().__init__()
        self.family, self.config = family, getattr(layer, family.attention).config
        self.gate = None
        self.projection = KeyValueProjection(layer, family) if own_projection else None

    def memory_attention(
        self, attention: Any, normed: Float[Tensor, "B L E"], layer_index: int, memory: PreparedMemory, **kwargs
    ) -> tuple[Float[Tensor, "B L E"], None]:
        """Self-attention with the memory's tokens among its keys; no second step."""
        queries, near = operands(self.family, attention, normed, **kwargs)
        return self(attention, queries, [memory.layers[layer_index], near], memory.apart), None

    def forward(
        self,
        attention: nn.Module,
        queries: Float[Tensor, "B H L D"],
        spans: Sequence[KeyValueSpan],
        apart: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L E"]:
        """(B, L, E).

        Args:
            attention: the layer's self-attention. queries: (B, H, L, D), rotated. spans: the memory and the running text.
            apart: queries that don't see the memory.
        """
        far, near = spans
        attended = attend_joined(attention, self.config._attn_implementation, queries, far, near, apart)
        return getattr(attention, self.family.output)(attended)
