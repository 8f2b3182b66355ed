"""The paper's score: cosine between the hidden states, after one layer, of each token and the question's last token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..context.chunking import left_align
from ..context.policies.cosine import directions
from ..context.tree import Nodes, chunks
from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.lower import LowerModel
from .base import extent


@dataclass(frozen=True)
class CosineScore:
    """Runs every chunk through one lower layer again, because these states are not kept. batch_tokens: most tokens at once."""

    name: str = "cosine"
    needs_joint: bool = False
    batch_tokens: int | None = None

    @torch.no_grad()
    def scores(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        words: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        asked, lengths = left_align(query, mask)
        last = self._last(model, asked, lengths)
        rows = [self._row(model, segments, row, last[row : row + 1]) for row in range(len(query))]
        return torch.cat(rows) if rows else torch.zeros(0, extent(segments))

    @torch.no_grad()
    def many(
        self, model: SharedLLMModel, segments: Sequence[Segment], queries: Sequence[Tensor]
    ) -> Float[Tensor, "n Z"]:
        """(n, Z) scores of one text for n questions (Q,), in one pass over the text."""
        last = [self._last(model, q[None], torch.tensor([len(q)])) for q in queries]
        return self._row(model, segments, 0, torch.cat(last))

    @staticmethod
    def _last(model: SharedLLMModel, asked: Int[Tensor, "B Q"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """(B, E) state at the last token of questions (B, Q) of `lengths` tokens, after one layer of the upper model."""
        first = LowerModel(model.upper.layers, model.get_input_embeddings(), model.upper.rotary_emb, model.upper.config)
        rows = torch.arange(len(asked))
        zeros = torch.zeros_like(rows)
        units = Nodes(rows, zeros, zeros, lengths.cpu(), zeros)
        return first.encode(asked, units, rows, units.end - 1, 1, lambda states: [states[1]])[0]

    def _row(
        self, model: SharedLLMModel, segments: Sequence[Segment], row: int, last: Float[Tensor, "n E"]
    ) -> Float[Tensor, "n Z"]:
        """(n, Z) for n states (n, E) of questions about one text."""

        def near(states: list[Tensor]) -> list[Tensor]:
            return [directions(states[1]) @ directions(last).T]

        total = torch.zeros(len(last), extent(segments))
        for segment in segments:
            length = int(segment.lengths[row])
            ids = segment.token_ids[row : row + 1, :length].to(last.device)
            places = torch.arange(length)
            units, unit = chunks(torch.tensor([length]), segment.chunk_size), places // segment.chunk_size
            (found,) = model.lower().encode(ids, units, unit, places, 1, near, self.batch_tokens)
            total[:, segment.start : segment.start + length] = found.T.cpu()
        return total
