"""The model's own attention: how much of it the question pays to each token, over all injected layers and heads."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...families import family_of
from ...positions import rotate, rotation
from .base import spread

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel
    from ...memory import ContextMemory


@dataclass(frozen=True)
class AttentionScore:
    """Attention of the question's tokens over the whole memory: the most that any of them pays, summed over heads.

    It is what the layers with a joint softmax would pay if everything were kept, without the running text.

    block: tokens of the memory that are scored at once.
    """

    name: str = "attention"
    block: int = 16_384

    @torch.no_grad()
    def scores(self, model: "SharedLLMModel", memory: "ContextMemory", query: Tensor, mask: Tensor) -> Tensor:
        if model.config.injection != "joint":
            raise ValueError("score='attention' needs a model with injection='joint': use score='bm25'.")
        prepared = model.prepare_memory(memory)
        if prepared is None:
            return torch.zeros(memory.mask.shape)
        states = model(query, attention_mask=mask.long(), output_hidden_states=True, use_cache=False).hidden_states
        family = family_of(model.upper.config)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        by = rotation(model.upper.rotary_emb, positions, states[0])
        total = torch.zeros(memory.mask.shape)
        for _, index in model.config.injection_map:
            layer = model.upper.layers[index]
            attention = getattr(layer, family.attention)
            queries = family.queries(attention, family.attention_input(layer, states[index])).transpose(1, 2)
            queries = rotate(queries, by) * attention.scaling
            total += self._layer(queries, prepared.layers[index][0], memory.mask, mask)
        return spread(total)

    def _layer(self, queries: Tensor, keys: Tensor, kept: Tensor, real: Tensor) -> Tensor:
        """Queries (B, H, Q, D), keys (B, G, S, D) → (B, S): the greatest weight over Q, summed over H."""
        batch, heads, asked, size = queries.shape
        groups = keys.shape[1]
        grouped = queries.reshape(batch, groups, heads // groups * asked, size)
        blocks = range(0, keys.shape[2], self.block)

        def logits(start: int) -> Tensor:
            part = slice(start, start + self.block)
            values = (grouped @ keys[:, :, part].transpose(2, 3)).float()
            return values.masked_fill(~kept[:, None, None, part], -torch.inf)

        norms = torch.stack([logits(start).logsumexp(-1) for start in blocks]).logsumexp(0)
        hidden = ~real[:, None, None, :].expand(batch, groups, heads // groups, asked).flatten(2)
        parts = []
        for start in blocks:
            weights = (logits(start) - norms[..., None]).exp().masked_fill(hidden[..., None], 0.0)
            parts.append(weights.reshape(batch, heads, asked, -1).amax(2).sum(1))
        return torch.cat(parts, 1).nan_to_num(0.0).cpu()
