"""The model's own attention: how much of it the question pays to each token, over all injected layers and heads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...families import family_of
from ...positions import rotate, rotation
from ..parts import Part
from .base import extent, spread

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel


@dataclass(frozen=True)
class AttentionScore:
    """Attention of the question's tokens over the whole memory: the most that any of them pays, summed over heads.

    It is what the layers with a joint softmax would pay if everything were kept, without the running text. Where the
    configuration names `selection_heads` (see `diagnosis.heads`), only they count, and the others cost nothing.

    block: tokens of the memory that are scored at once.
    """

    name: str = "attention"
    block: int = 16_384

    @torch.no_grad()
    def scores(self, model: "SharedLLMModel", parts: Sequence[Part], query: Tensor, mask: Tensor) -> Tensor:
        config = model.config
        if config.injection != "joint":
            raise ValueError("score='attention' needs a model with injection='joint': use score='bm25'.")
        total = torch.zeros(len(query), extent(parts))
        for _, heads, begin, weights in self.by_head(model, parts, query, mask):
            shares = torch.tensor([weight for _, weight in heads])
            total[:, begin : begin + weights.shape[2]] += (weights.cpu() * shares[:, None]).sum(1)
        return spread(total)

    @torch.no_grad()
    def by_head(
        self, model: "SharedLLMModel", parts: Sequence[Part], query: Tensor, mask: Tensor
    ) -> Iterator[tuple[int, list[tuple[int, float]], int, Tensor]]:
        """What each head pays: upper layer, its heads with their weights, first slot, (B, heads, T') greatest over Q."""
        if not any(part.lengths.any() for part in parts):
            return
        states = model(query, attention_mask=mask.long(), output_hidden_states=True, use_cache=False).hidden_states
        family, places = family_of(model.upper.config), _Places(model, parts)
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        for pair, (_, index) in enumerate(model.config.injection_map):
            heads = self._heads(model, index)
            if not heads:
                continue
            layer = model.upper.layers[index]
            attention = getattr(layer, family.attention)
            queries = family.queries(attention, family.attention_input(layer, states[index])).transpose(1, 2)
            for begin, weights in self._layer(queries * attention.scaling, heads, positions, mask, places, pair):
                yield index, heads, begin, weights

    @staticmethod
    def _heads(model: "SharedLLMModel", layer: int) -> list[tuple[int, float]]:
        """The heads of a layer that count, and how much: those of the configuration, or all alike."""
        chosen = model.config.selection_heads
        if chosen is None:
            return [(head, 1.0) for head in range(model.upper.config.num_attention_heads)]
        return [(head, weight) for at, head, weight in chosen if at == layer]

    def _layer(
        self,
        queries: Tensor,
        heads: list[tuple[int, float]],
        positions: Tensor,
        real: Tensor,
        places: "_Places",
        pair: int,
    ) -> Iterator[tuple[int, Tensor]]:
        """Queries (B, H, Q, D) before RoPE → slots, and (B, heads, T') the greatest weight over Q of each."""
        chosen = [head for head, _ in heads]
        norms = None
        for logits, _ in places.logits(queries, chosen, positions, pair, self.block):
            part = logits.logsumexp(-1)
            norms = part if norms is None else torch.logaddexp(norms, part)
        # Padding asks nothing; a text without tokens has no norm.
        norms = norms.masked_fill(~real[:, None] | norms.isneginf(), torch.inf)
        for logits, begin in places.logits(queries, chosen, positions, pair, self.block):
            yield begin, logits.sub_(norms[..., None]).amax(2).exp_()


class _Places:
    """The keys of all parts as attention would see them: rotated to their chunks, counted back from the running text."""

    def __init__(self, model: "SharedLLMModel", parts: Sequence[Part]):
        self.model, self.parts = model, parts
        ends = torch.stack([part.start + part.lengths for part in parts]).amax(0)
        self.chunks = -(-ends // parts[0].chunk_size)

    def logits(
        self, queries: Tensor, heads: list[int], positions: Tensor, pair: int, block: int
    ) -> Iterator[tuple[Tensor, int]]:
        """(B, heads, Q, T') float, and the slot of its first column, of all tokens in turn; −∞ where there is none."""
        rotary = self.model.upper.rotary_emb
        cache: dict[tuple[int, ...], Tensor] = {}
        for part in self.parts:
            keys = part.keys(pair, None).to(queries.device, queries.dtype)
            for start, stop in self._stretches(part, block):
                here = keys[:, :, start:stop]
                place = self._positions(part, start, here.shape[2])
                far = (place == place[:, :1]).all()
                if far:
                    # One distance for all: the queries are turned instead of many keys.
                    at = tuple(place[:, 0].tolist())
                    if at not in cache:
                        cache[at] = self._turned(queries, positions - place[:, :1].to(positions.device))
                    turned = cache[at]
                else:
                    turned = rotate(queries, rotation(rotary, positions, queries))
                    here = rotate(here, rotation(rotary, place, here))
                logits = _products(turned, here, heads)
                beyond = torch.arange(start, start + here.shape[2]) >= part.lengths.cpu()[:, None]
                if beyond.any():
                    logits.masked_fill_(beyond[:, None, None].to(logits.device), -torch.inf)
                yield logits, part.start + start

    def _turned(self, queries: Tensor, distance: Tensor) -> Tensor:
        """As if rotated to a position, against keys that are not: (R_i q)·(R_j k) = (R_{i−j} q)·k."""
        rotary = self.model.upper.rotary_emb
        factor = getattr(rotary, "attention_scaling", 1.0)
        return rotate(queries, rotation(rotary, distance, queries)) * factor

    def _stretches(self, part: Part, block: int) -> Iterator[tuple[int, int]]:
        """Columns to be scored together: those at one distance, and the nearer ones by themselves."""
        size, length = part.chunk_size, part.token_ids.shape[1]
        far = (int(self.chunks.min()) - self.model.config.reach + 1) * size - part.start
        cut = min(max(far, 0), length)
        for begin, end in ((0, cut), (cut, length)):
            yield from ((at, min(at + block, end)) for at in range(begin, end, block))

    def _positions(self, part: Part, start: int, count: int) -> Tensor:
        """(B, T') where the keys stand, counted from the running text's beginning."""
        config = self.model.config
        slots = part.start + start + torch.arange(count)
        if config.key_position == "offset":
            ends = torch.stack([p.start + p.lengths for p in self.parts]).amax(0).cpu()
            return (slots - ends[:, None]).clamp(min=-config.window)
        return (slots // part.chunk_size - self.chunks.cpu()[:, None]).clamp(min=-config.reach)


def _products(queries: Tensor, keys: Tensor, heads: list[int]) -> Tensor:
    """Queries (B, H, Q, D) of some heads with the keys (B, G, T, D) of their groups → (B, heads, Q, T) float."""
    batch, groups, share = len(queries), keys.shape[1], queries.shape[1] // keys.shape[1]
    if heads == list(range(queries.shape[1])):
        grouped = queries.reshape(batch, groups, -1, queries.shape[3])
        return (grouped @ keys.transpose(2, 3)).float().view(batch, len(heads), queries.shape[2], -1)
    return torch.stack([(queries[:, h] @ keys[:, h // share].transpose(1, 2)).float() for h in heads], 1)
