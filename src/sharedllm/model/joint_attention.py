"""One softmax over a memory and the running text, in the base's own self-attention.

What the base has learnt to find inside its window it finds in a memory too, without training, as far as the lower model
reads deep enough (`sharedllm diagnose` tells). The memory's keys stand before the running text, which begins at 0.
"""

from torch import Tensor, nn

from .attention import KeyValueSpan, attend_joined
from .cross_attention import KeyValueProjection, PreparedMemory
from .families import Family
from .self_attention import operands


class JointAttention(nn.Module):
    """W_o softmax(q [k_memory, k]ᵀ / √D + [b, 0]) [v_memory, v]; nothing is new but projections of keys and values where another layer is read.

    b = −log(max(1, S / W)) for S kept tokens and a window of W.
    """

    def __init__(self, layer: nn.Module, family: Family, own_projection: bool):
        """
        Args:
            layer: the decoder layer whose self-attention reads the memory.
            own_projection: the layer reads another lower layer than its twin, through projections of its own.
        """
        super().__init__()
        self.family, self.config = family, getattr(layer, family.attention).config
        self.reader = KeyValueProjection(layer, family) if own_projection else None

    def operands(
        self, attention: nn.Module, normed: Tensor, layer_index: int, memory: PreparedMemory, **kwargs
    ) -> tuple[Tensor, list[KeyValueSpan]]:
        """What is attended with: queries (B, H, L, D), and as spans the memory and the running text. Arguments as `forward`'s."""
        queries, near = operands(self.family, attention, normed, **kwargs)
        return queries, [memory.layers[layer_index], near]

    def forward(
        self, attention: nn.Module, normed: Tensor, layer_index: int, memory: PreparedMemory, **kwargs
    ) -> Tensor:
        """What self-attention would return, (B, L, E), with the memory's tokens among its keys.

        Args:
            attention: the layer's self-attention. normed: (B, L, E), what it reads.
            kwargs: as transformers gives them to self-attention.
        """
        queries, spans = self.operands(attention, normed, layer_index, memory, **kwargs)
        attended = attend_joined(attention, self.config._attn_implementation, queries, *spans)
        return getattr(attention, self.family.output)(attended)
