"""Runs layers of a base over tokens that follow others, of which the keys and values are at hand."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from .attention import attend
from .families import Rotations, family_of, sliding_window
from .rope import rotate

# Rotated keys and values (B, G, p, D) in one layer, of tokens before those that it runs over.
Before = tuple[Tensor, Tensor]
_Result = TypeVar("_Result")


class LayerRun:
    """Runs layers of a base over (B, L, E), one layer after the other, each token after those before it."""

    def __init__(self, layers: nn.ModuleList, rotary: nn.Module, config: PreTrainedConfig, hidden: Tensor, start: int):
        """
        Args:
            layers, rotary, config: of the base's decoder. hidden: (B, L, E), what enters the first layer. start: the position
                of its first token; so many tokens are before it.
        """
        self.layers, self.config, self.family = layers, config, family_of(config)
        positions = torch.arange(start, start + hidden.shape[1], device=hidden.device)[None]
        self.by, self.start = Rotations(rotary, config, positions, hidden), start
        self.masks: dict[bool, Tensor | None] = {}

    def turned(self, index: int, keys: Tensor) -> Tensor:
        """Keys (B, G, L, D) of a layer, rotated to their positions."""
        attention = getattr(self.layers[index], self.family.attention)
        return rotate(keys, self.by.keys(index, attention))

    def layer(
        self, index: int, hidden: Tensor, before: Before | None, whole: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer's output (B, L, E), and the rotated keys and the values (B, G, p + L, D) that it attended to.

        whole: False for keys and values only; the output is then the input.
        """
        return recomputed(self.layers[index], self._layer, index, hidden, before, whole)

    def sampled(self, index: int, hidden: Tensor, before: Before | None, offsets: Tensor) -> Tensor:
        """One layer's output (B, k, E) at `offsets` (B, k) only: keys and values of all tokens, everything else only there."""
        return recomputed(self.layers[index], self._sampled, index, hidden, before, offsets)

    def _layer(self, index: int, hidden: Tensor, before: Before | None, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
        layer, family = self.layers[index], self.family
        attention, normed = getattr(layer, family.attention), family.attention_input(layer, hidden)
        if not whole or not hidden.shape[1]:
            return hidden, *self._keys_values(index, normed, before)
        # Run the base's own attention; what stands in for a cache records its keys and values.
        seen, sliding = _Seen(before), sliding_window(self.config, index) is not None
        if sliding not in self.masks:
            self.masks[sliding] = causal_mask(self.config, hidden, sliding, seen)
        attended, *_ = attention(
            hidden_states=normed,
            position_embeddings=self.by.given(index),
            position_ids=self.by.positions,
            attention_mask=self.masks[sliding],
            past_key_values=seen,
        )
        hidden = family.combine(layer, hidden, attended)
        return hidden, *seen.last

    def _sampled(self, index: int, hidden: Tensor, before: Before | None, offsets: Tensor) -> Tensor:
        layer, family = self.layers[index], self.family
        attention, normed = getattr(layer, family.attention), family.attention_input(layer, hidden)
        distance = offsets[..., None] + self.start - torch.arange(self.start + hidden.shape[1], device=hidden.device)
        sliding = sliding_window(self.config, index)
        keys, values = self._keys_values(index, normed, before)
        queries = family.queries(attention, taken(normed, offsets)).transpose(1, 2)
        attended = attend(
            attention,
            self.config._attn_implementation,
            rotate(queries, self.by.queries(index, attention).at(offsets)),
            keys,
            values,
            allowed=((distance >= 0) if sliding is None else (distance >= 0) & (distance < sliding))[:, None],
        )
        return family.combine(layer, taken(hidden, offsets), getattr(attention, family.output)(attended))

    def _keys_values(self, index: int, normed: Tensor, before: Before | None) -> Before:
        """Rotated keys and values (B, G, p + L, D) of a layer, from its attention's input (B, L, E)."""
        attention = getattr(self.layers[index], self.family.attention)
        keys, values = (t.transpose(1, 2) for t in self.family.keys_values(attention, normed))
        return _after(before, self.turned(index, keys), values)


def recomputed(layer: nn.Module, run: Callable[..., _Result], *args: Any) -> _Result:
    """What `run` makes of its arguments. If the layer checkpoints its activations, the backward pass runs it again."""
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        return checkpoint(run, *args, use_reentrant=False)
    return run(*args)


def causal_mask(config: PreTrainedConfig, hidden: Tensor, sliding: bool, cache: Cache | None = None) -> Tensor | None:
    """The mask that transformers would give to self-attention over (u, l, E) without padding.

    Args:
        config: the base's. sliding: whether the layer sees a sliding window only. cache: has the tokens before these.
    """
    create = create_sliding_window_causal_mask if sliding else create_causal_mask
    return create(config=config, inputs_embeds=hidden, attention_mask=None, past_key_values=cache, position_ids=None)


def taken(hidden: Tensor, offsets: Tensor) -> Tensor:
    """(u, l, E) at offsets (u, k), ascending → (u, k, E)."""
    if offsets.shape[1] and bool((offsets[:, -1] - offsets[:, 0] == offsets.shape[1] - 1).all()):
        # The offsets of each unit are one stretch, usually all of it: no gather is needed.
        first = offsets[:, 0]
        if bool((first == first[0]).all()):
            return hidden[:, int(first[0]) : int(first[0]) + offsets.shape[1]]
    return hidden.gather(1, offsets[..., None].expand(-1, -1, hidden.shape[-1]))


class _Seen(Cache):
    """In place of a cache: holds the keys and values before the tokens that a layer runs over, and keeps those that it
    attended to."""

    last: Before

    def __init__(self, before: Before | None) -> None:
        super().__init__(layers=[])
        self.before = before

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.last = _after(self.before, key_states, value_states)
        return self.last

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.before is None else self.before[0].shape[2]

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


def _after(before: Before | None, keys: Tensor, values: Tensor) -> Before:
    """Keys and values after those before them, each in one piece: products with what is not are slow in half precision."""
    if before is not None and before[0].shape[2]:
        keys, values = (
            torch.cat([b.expand(len(t), -1, -1, -1), t], 2) for b, t in zip(before, (keys, values), strict=True)
        )
    return keys.contiguous(), values.contiguous()
