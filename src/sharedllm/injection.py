"""Position-aware cross-attention of the upper model over a memory (paper, eq. 2), and a memory made ready for it.

All keys of chunk i are rotated to position i, all queries to n, the number of chunks. Query and output projections and
the norm start as copies of the layer's self-attention, and the result is multiplied by tanh(gate) with gate = 0: before
training the model is the base model to the bit.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .attention import attend
from .config import SharedLLMConfig
from .families import Family
from .memory import ContextMemory
from .positions import Rotation, rotate, rotation


@dataclass(frozen=True)
class PreparedMemory:
    """A memory with its positions: rotated once for a question, read at every step.

    layers   upper layer → keys and values (B, G, S, D), keys rotated to their chunks
    mask     (B, 1, 1, S) bool, True for tokens to attend to; never all False in a row
    present  (B, 1, 1) bool, False for texts without any context
    query    cosines and sines (B, 1, D) of the query position n
    bias     (B, 1, 1, 1), what a joint softmax adds to the memory's scores
    """

    layers: dict[int, tuple[Tensor, Tensor]]
    mask: Tensor
    present: Tensor
    query: Rotation
    bias: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def repeat_interleave(self, repeats: int) -> "PreparedMemory":
        """Every text `repeats` times in a row, as beams need it."""

        def repeat(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(repeats, dim=0)

        return replace(
            self,
            layers={i: (repeat(k), repeat(v)) for i, (k, v) in self.layers.items()},
            mask=repeat(self.mask),
            present=repeat(self.present),
            query=(repeat(self.query[0]), repeat(self.query[1])),
            bias=repeat(self.bias),
        )


def prepare(memory: ContextMemory, config: SharedLLMConfig, rotary: nn.Module) -> PreparedMemory | None:
    """Rotate the keys of a memory to their chunks, queries to n; None if nothing was kept of any text.

    Args:
        config: which upper layer reads each of the memory's pairs of tensors, where keys stand, how scores are scaled.
        rotary: the upper model's rotary embedding.
    """
    if memory.mask.shape[1] == 0:
        return None
    like = memory.keys[0]
    cos, sin = rotation(rotary, _positions(memory, config), like)
    kept = memory.mask.sum(1).clamp(min=1)
    if config.score_scaling == "log":
        factor = (kept.double().log() / math.log(config.window)).clamp(min=1)[:, None, None].to(like.dtype)
        cos, sin = cos * factor, sin * factor
    present = memory.mask.any(1)
    return PreparedMemory(
        layers={
            upper: (rotate(keys, (cos, sin)), values)
            for (_, upper), keys, values in zip(config.injection_map, memory.keys, memory.values, strict=True)
        },
        # Attention over no key at all is undefined: a text without context attends to padding, and `present` drops it.
        mask=(memory.mask | ~present[:, None])[:, None, None, :],
        present=present[:, None, None],
        query=rotation(rotary, memory.chunks[:, None], like),
        # However much is kept, it weighs no more than a window of it: long memories don't drown the running text.
        bias=-(kept.double() / int(config.window)).clamp(min=1).log().to(like.dtype)[:, None, None, None],
    )


def _positions(memory: ContextMemory, config: SharedLLMConfig) -> Tensor:
    """(B, S) positions of the kept tokens. In a joint softmax they count back from the running text, which begins at 0."""
    if config.injection == "joint":
        if config.key_position == "offset":
            return (memory.position - memory.lengths[:, None]).clamp(min=-config.window)
        return (memory.chunk - memory.chunks[:, None]).clamp(min=-config.reach)
    if config.key_position == "offset":
        return memory.chunk + memory.position - memory.chunk * memory.chunk_size
    return memory.chunk


class MemoryReader(nn.Module):
    """Key and value projections of its own, for an upper layer that reads a lower layer other than its twin."""

    def __init__(self, layer: nn.Module, family: Family):
        super().__init__()
        self.norm = copy.deepcopy(getattr(layer, family.attention_norm))
        attention = getattr(layer, family.attention)
        self.head_dim = attention.head_dim
        for name in family.memory_parts:
            setattr(self, name, copy.deepcopy(getattr(attention, name)))


class CrossAttention(nn.Module):
    """h ← h + tanh(gate) · W_o softmax(q kᵀ / √D) v, with q from norm(h) and k, v from a memory (paper, eq. 2)."""

    def __init__(self, layer: nn.Module, family: Family, own_reader: bool, start: str = "gate"):
        """
        Args:
            layer: the decoder layer that it is injected into; its self-attention is the starting point.
            own_reader: the layer reads another lower layer than its twin, through projections of its own.
            start: see `SharedLLMConfig`.
        """
        super().__init__()
        attention = getattr(layer, family.attention)
        self.family, self.config = family, attention.config
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.num_key_value_groups = attention.num_key_value_groups
        self.norm = copy.deepcopy(getattr(layer, family.attention_norm))
        for name in family.query_parts:
            setattr(self, name, copy.deepcopy(getattr(attention, name)))
        # One number; not a scalar, because sharding over devices wants a dimension.
        self.gate = nn.Parameter(torch.zeros(1, dtype=torch.float32)) if start == "gate" else None
        self.reader = MemoryReader(layer, family) if own_reader else None
        output = getattr(self, family.output)
        if start == "zero":
            nn.init.zeros_(output.weight)
        elif start == "random":
            for linear in (output, *(m for n, m in self.named_children() if n in family.query_projections)):
                nn.init.normal_(linear.weight, std=self.config.initializer_range)

    def operands(self, hidden: Tensor, layer_index: int, memory: PreparedMemory) -> tuple[Tensor, ...]:
        """What is attended with: queries (B, H, L, D), keys and values (B, G, S, D), and which keys count (B, 1, 1, S)."""
        queries = rotate(self.family.queries(self, self.norm(hidden)).transpose(1, 2), memory.query)
        return queries, *memory.layers[layer_index], memory.mask

    def forward(self, hidden: Tensor, layer_index: int, memory: PreparedMemory) -> Tensor:
        """(B, L, E) behind self-attention → (B, L, E), to be added to it."""
        attended = attend(self, self.config._attn_implementation, *self.operands(hidden, layer_index, memory))
        opened = 1.0 if self.gate is None else torch.tanh(self.gate.float())
        gate = (opened * memory.present).to(hidden.dtype)
        return hidden + gate * getattr(self, self.family.output)(attended)
