"""The paper's signal: cosine between hidden states after one layer, of each token and of the question's last token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...chunking import left_align
from ...lower import LowerModel
from ...tree import Nodes, chunks
from ..parts import Part
from .base import extent

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel


@dataclass(frozen=True)
class CosineScore:
    """Every chunk goes through one lower layer again, as these states are not kept. batch_tokens: most tokens at once."""

    name: str = "cosine"
    batch_tokens: int = 32_768

    @torch.no_grad()
    def scores(self, model: "SharedLLMModel", parts: Sequence[Part], query: Tensor, mask: Tensor) -> Tensor:
        total = torch.zeros(len(query), extent(parts))
        first = LowerModel(model.upper.layers, model.get_input_embeddings(), model.upper.rotary_emb, model.upper.config)
        asked, lengths = left_align(query, mask)
        rows = torch.arange(len(asked))
        zeros = torch.zeros_like(rows)
        units = Nodes(rows, zeros, zeros, lengths.cpu(), zeros)
        (last,) = first.encode(asked, units, rows, units.end - 1, 1, lambda states: [states[1]])
        for part in parts:
            for row in rows.tolist():
                length = int(part.lengths[row])
                ids = part.token_ids[row : row + 1, :length].to(query.device)
                places = torch.arange(length)

                def near(states: list[Tensor], row: int = row) -> list[Tensor]:
                    return [cosine_similarity(states[1].float(), last[row].float(), dim=-1)]

                units, unit = chunks(torch.tensor([length]), part.chunk_size), places // part.chunk_size
                (found,) = model.lower().encode(ids, units, unit, places, 1, near, self.batch_tokens)
                total[row, part.start : part.start + length] = found.cpu()
        return total
