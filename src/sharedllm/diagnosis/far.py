"""A base in which the running text sees the context in chosen layers only."""

from collections.abc import Collection

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..model.attention import attend
from ..model.decoder import has_head, is_decoder
from ..model.families import Rotations, family_of, sliding_window
from ..model.rope import rotate
from ..utils.errors import UserError


class FarAttention:
    """Runs a base's layers one by one over a context and the running text after it.

    The context attends to itself as usual. The running text attends to itself and, in chosen layers, to the context
    too, at true positions and in one softmax. With all layers chosen this is the base itself.
    """

    def __init__(self, model: PreTrainedModel):
        """
        Args:
            model: a causal language model of a supported family.

        Raises:
            UserError: its family is not supported, or it is no causal language model.
        """
        self.config, self.family = model.config, family_of(model.config)
        decoder = model.get_decoder()
        if not has_head(model) or not is_decoder(decoder):
            raise UserError(f"{type(model).__name__} is no causal language model: pass one, with its head.")
        self.decoder, self.head = decoder, model.lm_head

    def read(self, context: Tensor) -> list[Tensor]:
        """(B, K) ids → the N + 1 states (B, K, E) entering layers 0 … N; the last one is the top layer's output."""
        states = [self.family.embed(self.config, self.decoder.embed_tokens(context))]
        for index in range(len(self.decoder.layers)):
            states.append(self._layer(index, states[-1], first=0, far=None))
        return states

    def logits(
        self, states: list[Tensor], running: Tensor, layers: Collection[int], depth: int | None = None
    ) -> Tensor:
        """(B, L) ids of running text → (B, L, V) logits.

        Args:
            states: the context's states from `read`.
            layers: the layers that see the context.
            depth: the number of layers through which the context is read: layer i sees the states entering layer min(i,
                depth), through its own norm and projections. None: layer i sees the states entering layer i.
        """
        hidden = self.family.embed(self.config, self.decoder.embed_tokens(running))
        first = states[0].shape[1]
        for index in range(len(self.decoder.layers)):
            far = states[index if depth is None else min(index, depth)] if index in layers else None
            hidden = self._layer(index, hidden, first, far)
        return self.family.logits(self.config, self.head(self.decoder.norm(hidden)))

    def _layer(self, index: int, hidden: Tensor, first: int, far: Tensor | None) -> Tensor:
        """One decoder layer over tokens at positions `first` …, with the states `far` of positions 0 … first − 1."""
        layer, family = self.decoder.layers[index], self.family
        attention = getattr(layer, family.attention)
        seen = hidden if far is None else torch.cat([far, hidden], 1)
        start = first if far is None else 0
        key_places = torch.arange(start, start + seen.shape[1], device=hidden.device)
        query_places = torch.arange(first, first + hidden.shape[1], device=hidden.device)
        keys, values = (t.transpose(1, 2) for t in family.keys_values(attention, family.attention_input(layer, seen)))
        queries = family.queries(attention, family.attention_input(layer, hidden)).transpose(1, 2)
        distance = query_places[:, None] - key_places
        sliding = sliding_window(self.config, index)
        allowed = (distance >= 0) if sliding is None else (distance >= 0) & (distance < sliding)
        attended = attend(
            attention,
            self.config._attn_implementation,
            rotate(queries, self._by(query_places, hidden).queries(index, attention)),
            rotate(keys, self._by(key_places, hidden).keys(index, attention)),
            values,
            allowed[None, None],
        )
        return family.combine(layer, hidden, getattr(attention, family.output)(attended))

    def _by(self, places: Tensor, like: Tensor) -> Rotations:
        return Rotations(self.decoder.rotary_emb, self.config, places[None], like)
