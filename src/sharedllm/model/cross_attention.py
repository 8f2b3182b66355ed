"""Position-aware cross-attention of the upper model over a memory (paper, eq. 2), and preparing a memory for it.

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
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..memory.context_memory import ContextMemory
from ..memory.int8 import Int8Keys, Int8Values
from ..utils.errors import UserError, named_type
from .attention import attend_to_all, own_scores
from .config import SharedLLMConfig
from .families import Family, Rotations
from .families.wiring import Inject
from .injection import Injection, KeyValueProjection
from .kernels import KeyValueSpan
from .rope import Rotation, key_positions, rotate
from .self_attention import self_attend

# Most tokens of a text to rotate at once.
_TOKENS = 4096


@dataclass(frozen=True)
class PreparedMemory:
    """A memory with positions: rotated once per question, read at every step.

    A batch may have several consecutive rows for each text (questions, beams). They all read the same keys and values;
    only small tensors are repeated for them.

    layers   upper layer → keys and values (X, G, S, D) of X texts, keys rotated to their positions, in 8 bits if
             memory_dtype says so; and a bias (X, 1, 1, S) added to their scores, or None
    present  (B, 1, 1) bool, False for rows without any context
    query    upper layer → rotation (B, 1, D) of its cross-attention's queries, to position n
    begin    (B,) position at which the running text begins; None means 0
    apart    (B, L) bool, tokens of the running text that don't see the memory; None for none
    """

    layers: dict[int, KeyValueSpan]
    present: Bool[Tensor, "B 1 1"]
    query: dict[int, Rotation] = field(default_factory=dict)
    begin: Int[Tensor, " B"] | None = None
    apart: Bool[Tensor, "B L"] | None = None

    def __len__(self) -> int:
        """B, the number of rows."""
        return len(self.present)

    def repeat_interleave(self, repeats: int) -> "PreparedMemory":
        """The memory for `repeats` times as many rows; keys and values are not copied."""
        return replace(
            self,
            present=self.present.repeat_interleave(repeats, dim=0),
            query={
                layer: by._replace(cos=by.cos.repeat_interleave(repeats, 0), sin=by.sin.repeat_interleave(repeats, 0))
                for layer, by in self.query.items()
            },
            begin=None if self.begin is None else self.begin.repeat_interleave(repeats),
        )


def check_memory(memory: Any) -> None:
    """
    Raises:
        UserError: it is no memory that a model can read.
    """
    if memory is not None and not isinstance(memory, ContextMemory | PreparedMemory):
        fix = "pass its load()" if hasattr(memory, "load") else "pass what read() or open_memory(path).load() returns"
        raise UserError(f"memory is {named_type(memory)}: {fix}.")


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

    Works layer by layer, some tokens at a time, so intermediate results are small compared with the memory.

    Args:
        config: which upper layer reads each of the memory's pairs of tensors, the keys' positions, the scaling of scores.
        rotary: the upper model's rotary embedding.
        readers: by upper layer, modules with their own queries for the memory (cross-attention).
        projections: by upper layer, modules that projected the memory's keys for it.
        bits: hold keys and values in 8 bits, without gradients.
        static: pad it to one of a few sizes (see `bucket`) and always give a bias, so that compiled code fits other
            memories too.
        in_place: rotate the keys in place, without gradients; the memory must not be used again.
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
    # Gradients need the original numbers, not 8-bit codes.
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


def _scaled(by: Rotation, factor: Float[Tensor, "X 1 1"] | None) -> Rotation:
    return by if factor is None else by.scaled(factor)


def _rotated(keys: Float[Tensor, "X G S D"], by: Rotation, in_place: bool) -> Float[Tensor, "X G S D"]:
    """`rotate` of a memory's keys (X, G, S, D), some tokens at a time where there are no gradients."""
    if torch.is_grad_enabled():
        return rotate(keys, by)
    out = keys if in_place else torch.empty_like(keys, memory_format=torch.contiguous_format)
    for start in range(0, keys.shape[2], _TOKENS):
        some = slice(start, start + _TOKENS)
        out[:, :, some] = rotate(keys[:, :, some], by.at(some))
    return out


def _bias(
    memory: ContextMemory, kept: Int[Tensor, " X"], config: SharedLLMConfig, dtype: torch.dtype
) -> Float[Tensor, "X 1 1 S"]:
    """The bias (X, 1, 1, S) of scores, which hides padding."""
    if config.injection == "joint":
        # However many tokens are kept, they weigh no more than a window of them, so long memories don't drown the
        # running text.
        weight, seen = -(kept.double() / int(config.window)).clamp(min=1).log(), memory.mask
    else:
        # Attention over no keys is undefined: a text without context attends to padding, and `present` drops the result.
        weight, seen = torch.zeros_like(kept, dtype=dtype), memory.mask | ~memory.mask.any(1, keepdim=True)
    bias = torch.where(seen, weight.to(dtype)[:, None], torch.finfo(dtype).min)
    return bias[:, None, None, :]


def bucket(length: int) -> int:
    """The padded size of a memory of `length` kept tokens: eight sizes per doubling, so less than 16 or an eighth is added."""
    step = max(16, 2 ** ((length - 1).bit_length() - 4))
    return -(-length // step) * step


class CrossAttention(Injection):
    """h ← h + tanh(gate) · W_o softmax(q kᵀ / √D) v, with q from norm(h) and k, v from a memory (paper, eq. 2)."""

    config: PreTrainedConfig  # the base's, lent by the self-attention (see `Family.lend_traits`)

    def __init__(self, layer: nn.Module, family: Family, own_projection: bool, start: str = "gate"):
        """
        Args:
            layer: the decoder layer that it is injected into; its self-attention is the starting point.
            own_projection: the layer reads a lower layer other than its twin, through its own projections.
            start: see `SharedLLMConfig`.
        """
        super().__init__()
        attention = getattr(layer, family.attention)
        family.lend_traits(attention, self)
        self.family, self.scaling = family, attention.scaling
        self.norm = copy.deepcopy(family.norm_of(layer))
        for name, part in family.parts(attention, family.query_parts).items():
            setattr(self, name, copy.deepcopy(part))
        # One number, but not a scalar: sharding over devices needs a dimension.
        self.gate = nn.Parameter(torch.zeros(1, dtype=torch.float32)) if start == "gate" else None
        self.projection = KeyValueProjection(layer, family) if own_projection else None
        output: nn.Linear = getattr(self, family.output)
        if start == "zero":
            nn.init.zeros_(output.weight)
        elif start == "random":
            drawn: list[nn.Linear] = [output, *(getattr(self, name) for name in family.query_projections)]
            for linear in drawn:
                nn.init.normal_(linear.weight, std=self.config.initializer_range)

    def memory_attention(
        self, attention: Any, normed: Float[Tensor, "B L E"], layer_index: int, memory: PreparedMemory, **kwargs
    ) -> tuple[Tensor, Inject]:
        """Unchanged self-attention, and the function that adds the memory's contribution after it."""

        def read(hidden: Tensor) -> Tensor:
            queries = rotate(self.family.queries(self, self.norm(hidden)).transpose(1, 2), memory.query[layer_index])
            return hidden + self(self, queries, [memory.layers[layer_index]], memory.present)

        return self_attend(self.family, attention, normed, **kwargs), read

    def forward(
        self,
        attention: nn.Module,
        queries: Float[Tensor, "B H L D"],
        spans: Sequence[KeyValueSpan],
        present: Bool[Tensor, "B 1 1"],
    ) -> Float[Tensor, "B L E"]:
        """The contribution to the residual stream, (B, L, E).

        Args:
            attention: this module. queries: (B, H, L, D), rotated. spans: the memory alone.
            present: (B, 1, 1) bool, False for rows without any context.
        """
        (span,) = spans
        attended = attend_to_all(self.config._attn_implementation, queries, span, self.scaling, **own_scores(self))
        opened = 1.0 if self.gate is None else torch.tanh(self.gate.float())
        return (opened * present).to(queries.dtype) * getattr(self, self.family.output)(attended)


def untrained(model: nn.Module) -> bool:
    """Whether every cross-attention of a model is in its initial state: all gates are closed."""
    gates = [module.gate for module in model.modules() if isinstance(module, CrossAttention)]
    return bool(gates) and all(gate is not None and not gate.any() for gate in gates)
