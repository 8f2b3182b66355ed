"""The model's own attention as a score: how much the question attends to each token, over injected layers and heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.families import Rotations, family_of
from ..model.rope import rotate
from .base import extent, spread


@dataclass(frozen=True)
class AttentionScore:
    """Attention of the question's tokens over the whole memory: the maximum over the question's tokens, summed over heads.

    It is the attention of the joint-softmax layers if all tokens were as far away as the farthest chunk, because
    attention favours nearby tokens but a question does not. If the configuration names `selection_heads` (see
    `diagnosis.heads`), only these count, and the others cost nothing.

    block: tokens of the memory that are scored at once.
    """

    name: str = "attention"
    needs_joint: bool = True
    block: int = 16_384

    @torch.no_grad()
    def scores(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        words: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        total = torch.zeros(len(query), extent(segments))
        for _, heads, begin, weights in self.by_head(model, segments, query, mask):
            shares = torch.tensor([weight for _, weight in heads])
            total[:, begin : begin + weights.shape[2]] += (weights.cpu() * shares[:, None]).sum(1)
        return spread(total)

    @torch.no_grad()
    def by_head(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        every: bool = False,
    ) -> Iterator[tuple[int, list[tuple[int, float]], int, Float[Tensor, "B heads _"]]]:
        """Attention by head. Yields upper layer, its heads with their weights, first slot, (B, heads, Z') maximum over Q.

        every: all heads, equally weighted, whatever the configuration names.
        """
        if not any(segment.lengths.any() for segment in segments):
            return
        states = model(query, attention_mask=mask.long(), output_hidden_states=True, use_cache=False).hidden_states
        family, config, rotary = family_of(model.upper.config), model.config, model.upper.rotary_emb
        # The distance is the same for all keys, so the queries are rotated instead: (R_i q)·(R_j k) = (R_{i−j} q)·k.
        farthest = config.window if config.key_position == "offset" else config.reach
        places = (mask.long().cumsum(1) - 1).clamp(min=0) + farthest
        turn = Rotations(rotary, model.upper.config, places, states[0])
        # Keys stay at position 0, where the rotation is just a factor.
        still = Rotations(rotary, model.upper.config, torch.zeros_like(places[:1, :1]), states[0])
        for pair, (_, index) in enumerate(config.injection_map):
            heads = _heads_of(model, index, None if every else config.selection_heads)
            if not heads:
                continue
            layer = model.upper.layers[index]
            attention = getattr(layer, family.attention)
            queries = family.queries(attention, family.attention_input(layer, states[index])).transpose(1, 2)
            queries = rotate(rotate(queries, turn.queries(index, attention)), still.keys(index, attention))
            for begin, weights in self._layer(queries * attention.scaling, heads, mask, segments, pair):
                yield index, heads, begin, weights

    def _layer(
        self,
        queries: Float[Tensor, "B H Q D"],
        heads: list[tuple[int, float]],
        real: Bool[Tensor, "B Q"],
        segments: Sequence[Segment],
        pair: int,
    ) -> Iterator[tuple[int, Float[Tensor, "B heads _"]]]:
        """Queries (B, H, Q, D) → slots, and (B, heads, Z') each slot's largest softmax weight over Q."""
        chosen = [head for head, _ in heads]
        norms = queries.new_full((len(queries), len(chosen), queries.shape[2]), -torch.inf, dtype=torch.float32)
        for _, logits in self._logits(queries, chosen, segments, pair):
            norms = torch.logaddexp(norms, logits.logsumexp(-1))
        # Padding has no weight; for a text without tokens the softmax is undefined.
        norms = norms.masked_fill(~real[:, None] | norms.isneginf(), torch.inf)
        for begin, logits in self._logits(queries, chosen, segments, pair):
            yield begin, logits.sub_(norms[..., None]).amax(2).exp_()

    def _logits(
        self, queries: Float[Tensor, "B H Q D"], heads: list[int], segments: Sequence[Segment], pair: int
    ) -> Iterator[tuple[int, Float[Tensor, "B heads Q _"]]]:
        """The slot of the first column, and (B, heads, Q, Z') float, for all tokens, block by block; −∞ where there is
        none."""
        for segment in segments:
            keys, length = segment.keys(pair, None).to(queries.device, queries.dtype), segment.token_ids.shape[1]
            for start in range(0, length, self.block):
                logits = _products(queries, keys[:, :, start : start + self.block], heads)
                beyond = torch.arange(start, start + logits.shape[3]) >= segment.lengths.cpu()[:, None]
                if beyond.any():
                    logits.masked_fill_(beyond[:, None, None].to(logits.device), -torch.inf)
                yield segment.start + start, logits


def _heads_of(model: SharedLLMModel, layer: int, chosen: Sequence[Any] | None) -> list[tuple[int, float]]:
    """The heads of a layer that count, and their weights: the chosen ones, or all with equal weight."""
    if chosen is None:
        return [(head, 1.0) for head in range(model.upper.config.num_attention_heads)]
    return [(head, weight) for at, head, weight in chosen if at == layer]


def _products(
    queries: Float[Tensor, "B H Q D"], keys: Float[Tensor, "B G Z D"], heads: list[int]
) -> Float[Tensor, "B heads Q Z"]:
    """Queries (B, H, Q, D) of some heads with the keys (B, G, Z, D) of their groups → (B, heads, Q, Z) float."""
    batch, groups, share = len(queries), keys.shape[1], queries.shape[1] // keys.shape[1]
    if heads == list(range(queries.shape[1])):
        grouped = queries.reshape(batch, groups, -1, queries.shape[3])
        return (grouped @ keys.transpose(2, 3)).float().view(batch, len(heads), queries.shape[2], -1)
    return torch.stack([(queries[:, h] @ keys[:, h // share].transpose(1, 2)).float() for h in heads], 1)
