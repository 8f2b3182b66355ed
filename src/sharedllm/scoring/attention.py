"""The model's own attention: how much of it the question pays to each token, over injected layers and heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.families import Rotations, family_of
from ..model.rope import rotate
from .base import extent, spread


@dataclass(frozen=True)
class AttentionScore:
    """Attention of the question's tokens over the whole memory: the most that any of them pays, summed over heads.

    It is what the layers with a joint softmax would pay if everything were kept as far off as the farthest chunk: attention
    favours what is near, a question does not. Where the configuration names `selection_heads` (see `diagnosis.heads`), only
    they count, and the others cost nothing.

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
        query: Tensor,
        mask: Tensor,
        words: Tensor | None = None,
    ) -> Tensor:
        total = torch.zeros(len(query), extent(segments))
        for _, heads, begin, weights in self.by_head(model, segments, query, mask):
            shares = torch.tensor([weight for _, weight in heads])
            total[:, begin : begin + weights.shape[2]] += (weights.cpu() * shares[:, None]).sum(1)
        return spread(total)

    @torch.no_grad()
    def by_head(
        self, model: SharedLLMModel, segments: Sequence[Segment], query: Tensor, mask: Tensor, every: bool = False
    ) -> Iterator[tuple[int, list[tuple[int, float]], int, Tensor]]:
        """What each head pays: upper layer, its heads with their weights, first slot, (B, heads, Z') greatest over Q.

        every: all heads alike, whatever the configuration names.
        """
        if not any(segment.lengths.any() for segment in segments):
            return
        states = model(query, attention_mask=mask.long(), output_hidden_states=True, use_cache=False).hidden_states
        family, config, rotary = family_of(model.upper.config), model.config, model.upper.rotary_emb
        # One distance for all: the queries are turned instead of every key, (R_i q)·(R_j k) = (R_{i−j} q)·k.
        farthest = config.window if config.key_position == "offset" else config.reach
        places = (mask.long().cumsum(1) - 1).clamp(min=0) + farthest
        turn = Rotations(rotary, model.upper.config, places, states[0])
        # Keys stay at 0, where turning is no more than a factor.
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
        self, queries: Tensor, heads: list[tuple[int, float]], real: Tensor, segments: Sequence[Segment], pair: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Queries (B, H, Q, D) → slots, and (B, heads, Z') the greatest softmax weight over Q of each."""
        chosen, norms = [head for head, _ in heads], None
        for _, logits in self._logits(queries, chosen, segments, pair):
            more = logits.logsumexp(-1)
            norms = more if norms is None else torch.logaddexp(norms, more)
        # Padding asks nothing; a text without tokens has no norm.
        norms = norms.masked_fill(~real[:, None] | norms.isneginf(), torch.inf)
        for begin, logits in self._logits(queries, chosen, segments, pair):
            yield begin, logits.sub_(norms[..., None]).amax(2).exp_()

    def _logits(
        self, queries: Tensor, heads: list[int], segments: Sequence[Segment], pair: int
    ) -> Iterator[tuple[int, Tensor]]:
        """The slot of the first column, and (B, heads, Q, Z') float, of all tokens in turn; −∞ where there is none."""
        for segment in segments:
            keys, length = segment.keys(pair, None).to(queries.device, queries.dtype), segment.token_ids.shape[1]
            for start in range(0, length, self.block):
                logits = _products(queries, keys[:, :, start : start + self.block], heads)
                beyond = torch.arange(start, start + logits.shape[3]) >= segment.lengths.cpu()[:, None]
                if beyond.any():
                    logits.masked_fill_(beyond[:, None, None].to(logits.device), -torch.inf)
                yield segment.start + start, logits


def _heads_of(model: SharedLLMModel, layer: int, chosen: Sequence[Any] | None) -> list[tuple[int, float]]:
    """The heads of a layer that count, and how much: those chosen, as the configuration names them, or all alike."""
    if chosen is None:
        return [(head, 1.0) for head in range(model.upper.config.num_attention_heads)]
    return [(head, weight) for at, head, weight in chosen if at == layer]


def _products(queries: Tensor, keys: Tensor, heads: list[int]) -> Tensor:
    """Queries (B, H, Q, D) of some heads with the keys (B, G, Z, D) of their groups → (B, heads, Q, Z) float."""
    batch, groups, share = len(queries), keys.shape[1], queries.shape[1] // keys.shape[1]
    if heads == list(range(queries.shape[1])):
        grouped = queries.reshape(batch, groups, -1, queries.shape[3])
        return (grouped @ keys.transpose(2, 3)).float().view(batch, len(heads), queries.shape[2], -1)
    return torch.stack([(queries[:, h] @ keys[:, h // share].transpose(1, 2)).float() for h in heads], 1)
