"""Position-aware cross-attention of the upper model over a memory (paper, eq. 2), and a memory made ready for it.

All keys of chunk i are rotated to position i, all queries to n, the number of chunks. Query and output projections and
the norm start as copies of the layer's self-attention, and the result is multiplied by tanh(gate) with gate = 0: before
training the model is the base model to the bit.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..memory.context_memory import ContextMemory
from ..memory.int8 import Int8Keys, Int8Values
from .attention import KeyValueSpan, attend_to_all, own_scores
from .config import SharedLLMConfig
from .families import Family, Rotations
from .families.wiring import Inject
from .injection import Injection, KeyValueProjection
from .rope import Rotation, key_positions, rotate
from .self_attention import self_attend

# Of a text, rotated at once.
_TOKENS = 4096


@dataclass(frozen=True)
class PreparedMemory:
    """A memory with its positions: rotated once for a question, read at every step.

    A batch may have several rows for each text, one behind another (questions, beams): they all read the same tensors,
    only what is small is repeated for them.

    layers   upper layer → keys and values (X, G, S, D) of X texts, keys rotated to where they stand, in 8 bits where
             memory_dtype says so; and (X, 1, 1, S), what is added to their scores, None for nothing
    present  (B, 1, 1) bool, False for rows without any context
    query    upper layer → rotation (B, 1, D) of its cross-attention's queries, to position n
    begin    (B,) position at which the running text begins; None is 0
    """

    layers: dict[int, KeyValueSpan]
    present: Tensor
    query: dict[int, Rotation] = field(default_factory=dict)
    begin: Tensor | None = None

    def __len__(self) -> int:
        """B, the number of rows."""
        return len(self.present)

    def repeat_interleave(self, repeats: int) -> "PreparedMemory":
        """For `repeats` times as many rows; keys and values are not copied."""
        return replace(
            self,
            present=self.present.repeat_interleave(repeats, dim=0),
            query={
                layer: by._replace(cos=by.cos.repeat_interleave(repeats, 0), sin=by.sin.repeat_interleave(repeats, 0))
                for layer, by in self.query.items()
            },
            begin=None if self.begin is None else self.begin.repeat_interleave(repeats),
        )


def prepare(
    memory: ContextMemory,
    config: SharedLLMConfig,
    rotary: nn.Module,
    readers: Mapping[int, nn.Module],
    projections: Mapping[int, nn.Module],
    bits: bool = False,
    static: bool = False,
    in_place: bool = False,
) -> PreparedMemory | None:
    """Rotate the keys of a memory to their chunks, queries to n; None if nothing was kept of any text.

    Of one layer after the other, some tokens at a time: what it works with is small beside the memory.

    Args:
        config: which upper layer reads each of the memory's pairs of tensors, where keys stand, how scores are scaled.
        rotary: the upper model's rotary embedding.
        readers: by upper layer, what makes queries of its own for the memory (cross-attention).
        projections: by upper layer, what the memory's keys for it were projected by.
        bits: hold keys and values in 8 bits, without gradients.
        static: pad it to one of few sizes (see `bucket`), with a bias in any case: compiled code then fits the next one too.
        in_place: rotate the keys where they lie, without gradients; the memory is not to be used again.
    """
    if memory.mask.shape[1] == 0:
        return None
    if static:
        memory = memory.padded(bucket(memory.mask.shape[1]))
    like = memory.keys[0]
    by = Rotations(rotary, config.text_config, key_positions(memory, config), like)
    query_by = Rotations(rotary, config.text_config, memory.chunks[:, None], like)
    kept = memory.mask.sum(1).clamp(min=1)
    factor = None
    if config.score_scaling == "log":
        factor = (kept.double().log() / math.log(config.window)).clamp(min=1)[:, None, None].to(like.dtype)
    # What is trained through has to be the numbers themselves.
    bits = bits and not torch.is_grad_enabled()
    bias = _bias(memory, kept, config, like.dtype)
    bias = bias if static or bias.any() else None
    held = (Int8Keys.of, Int8Values.of) if bits else (Tensor.contiguous, Tensor.contiguous)
    return PreparedMemory(
        layers={
            upper: (
                held[0](_rotated(keys, _scaled(by.keys(upper, projections[upper]), factor), in_place)),
                held[1](values),
                bias,
            )
            for (_, upper), keys, values in zip(config.injection_map, memory.keys, memory.values, strict=True)
        },
        present=memory.mask.any(1)[:, None, None],
        query={layer: query_by.queries(layer, reader) for layer, reader in readers.items()},
    )


def _scaled(by: Rotation, factor: Tensor | None) -> Rotation:
    return by if factor is None else by.scaled(factor)


def _rotated(keys: Tensor, by: Rotation, in_place: bool) -> Tensor:
    """`rotate` of a memory's keys (X, G, S, D), some tokens at a time where there are no gradients."""
    if torch.is_grad_enabled():
        return rotate(keys, by)
    out = keys if in_place else torch.empty_like(keys, memory_format=torch.contiguous_format)
    for start in range(0, keys.shape[2], _TOKENS):
        some = slice(start, start + _TOKENS)
        out[:, :, some] = rotate(keys[:, :, some], by.at(some))
    return out


def _bias(memory: ContextMemory, kept: Tensor, config: SharedLLMConfig, dtype: torch.dtype) -> Tensor:
    """(X, 1, 1, S) what is added to scores: padding is not seen."""
    if config.injection == "joint":
        # However much is kept, it weighs no more than a window of it: long memories don't drown the running text.
        weight, seen = -(kept.double() / int(config.window)).clamp(min=1).log(), memory.mask
    else:
        # Attention over no key at all is undefined: a text without context attends to padding, and `present` drops it.
        weight, seen = torch.zeros_like(kept, dtype=dtype), memory.mask | ~memory.mask.any(1, keepdim=True)
    bias = torch.where(seen, weight.to(dtype)[:, None], torch.finfo(dtype).min)
    return bias[:, None, None, :]


def bucket(length: int) -> int:
    """The size that a memory of so many kept tokens is padded to: by less than 16 or than an eighth, eight sizes a doubling."""
    step = max(16, 2 ** ((length - 1).bit_length() - 4))
    return -(-length // step) * step


class CrossAttention(Injection):
    """h ← h + tanh(gate) · W_o softmax(q kᵀ / √D) v, with q from norm(h) and k, v from a memory (paper, eq. 2)."""

    def __init__(self, layer: nn.Module, family: Family, own_projection: bool, start: str = "gate"):
        """
        Args:
            layer: the decoder layer that it is injected into; its self-attention is the starting point.
            own_projection: the layer reads another lower layer than its twin, through projections of its own.
            start: see `SharedLLMConfig`.
        """
        super().__init__()
        attention = getattr(layer, family.attention)
        family.lend_traits(attention, self)
        self.family, self.scaling = family, attention.scaling
        self.norm = copy.deepcopy(family.norm_of(layer))
        for name, part in family.parts(attention, family.query_parts).items():
            setattr(self, name, copy.deepcopy(part))
        # One number; not a scalar, because sharding over devices wants a dimension.
        self.gate = nn.Parameter(torch.zeros(1, dtype=torch.float32)) if start == "gate" else None
        self.projection = KeyValueProjection(layer, family) if own_projection else None
        output = getattr(self, family.output)
        if start == "zero":
            nn.init.zeros_(output.weight)
        elif start == "random":
            for linear in (output, *(m for n, m in self.named_children() if n in family.query_projections)):
                nn.init.normal_(linear.weight, std=self.config.initializer_range)

    def memory_attention(
        self, attention: Any, normed: Tensor, layer_index: int, memory: PreparedMemory, **kwargs
    ) -> tuple[Tensor, Inject]:
        """Self-attention as it is, and what the memory adds after it."""

        def read(hidden: Tensor) -> Tensor:
            queries = rotate(self.family.queries(self, self.norm(hidden)).transpose(1, 2), memory.query[layer_index])
            return hidden + self(self, queries, [memory.layers[layer_index]], memory.present)

        return self_attend(self.family, attention, normed, **kwargs), read

    def forward(self, attention: nn.Module, queries: Tensor, spans: Sequence[KeyValueSpan], present: Tensor) -> Tensor:
        """What is added to the residual stream, (B, L, E).

        Args:
            attention: this module. queries: (B, H, L, D), rotated. spans: the memory alone.
            present: (B, 1, 1) bool, False for rows without any context.
        """
        (span,) = spans
        attended = attend_to_all(self.config._attn_implementation, queries, span, self.scaling, **own_scores(self))
        opened = 1.0 if self.gate is None else torch.tanh(self.gate.float())
        return (opened * present).to(queries.dtype) * getattr(self, self.family.output)(attended)


def untrained(model: nn.Module) -> bool:
    """Whether every cross-attention of a model is still as it began: nothing of the memory passes its gate."""
    gates = [module.gate for module in model.modules() if isinstance(module, CrossAttention)]
    return bool(gates) and all(gate is not None and not gate.any() for gate in gates)
