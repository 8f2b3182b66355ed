"""One softmax over a memory and the running text, in the base's own self-attention.

What the base has learnt to find inside its window it finds in a memory too, without training, as far as the lower model
reads deep enough (`sharedllm diagnose` tells). The memory's keys stand before the running text, which begins at 0.
"""

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from .attention import Part, attend_joined
from .families import Family
from .injection import MemoryReader, PreparedMemory
from .positions import Rotation, rotate


class JointAttention(nn.Module):
    """W_o softmax(q [k_memory, k]ᵀ / √D + [b, 0]) [v_memory, v]; nothing is new but a reader where another layer is read.

    b = −log(max(1, S / W)) for S kept tokens and a window of W.
    """

    def __init__(self, layer: nn.Module, family: Family, own_reader: bool):
        """
        Args:
            layer: the decoder layer whose self-attention reads the memory.
            own_reader: the layer reads another lower layer than its twin, through projections of its own.
        """
        super().__init__()
        self.family, self.config = family, getattr(layer, family.attention).config
        self.reader = MemoryReader(layer, family) if own_reader else None

    def operands(
        self,
        attention: nn.Module,
        normed: Tensor,
        layer_index: int,
        memory: PreparedMemory,
        position_embeddings: Rotation,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[Tensor, list[Part]]:
        """What is attended with: queries (B, H, L, D), and as parts the memory and the running text. Arguments as `forward`'s."""
        keys, values = (t.transpose(1, 2) for t in self.family.keys_values(attention, normed))
        queries = self.family.queries(attention, normed).transpose(1, 2)
        queries, keys = rotate(queries, position_embeddings), rotate(keys, position_embeddings)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, attention.layer_idx)
        return queries, [
            (*memory.layers[layer_index], memory.bias),
            (keys, values, _bias(attention_mask, queries, keys)),
        ]

    def forward(
        self, attention: nn.Module, normed: Tensor, layer_index: int, memory: PreparedMemory, **kwargs
    ) -> Tensor:
        """What self-attention would return, (B, L, E), with the memory's tokens among its keys.

        Args:
            attention: the layer's self-attention. normed: (B, L, E), what it reads.
            kwargs: as transformers gives them to self-attention.
        """
        queries, parts = self.operands(attention, normed, layer_index, memory, **kwargs)
        attended = attend_joined(attention, self.config._attn_implementation, queries, *parts)
        return getattr(attention, self.family.output)(attended)


def _bias(mask: Tensor | None, queries: Tensor, keys: Tensor) -> Tensor | None:
    """The mask that transformers gives to self-attention, as numbers to be added to scores: (B, 1, L, S)."""
    length, seen = queries.shape[2], keys.shape[2]
    if mask is None:
        # It is left out where it is only causal; one token sees all before it.
        if length == 1:
            return None
        mask = torch.ones(length, seen, dtype=torch.bool, device=queries.device).tril(seen - length)[None, None]
    mask = mask[..., :seen]
    if mask.dtype == torch.bool:
        lowest = torch.finfo(queries.dtype).min
        mask = torch.zeros(mask.shape, dtype=queries.dtype, device=queries.device).masked_fill(~mask, lowest)
    return mask
