"""BM25 over pieces of the text: words are tokens and pairs of tokens, so no language is assumed."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel
    from ...memory import ContextMemory


@dataclass(frozen=True)
class BM25Score:
    """piece: tokens that are ranked together; pieces overlap by half, and a token has the better score of its two."""

    name: str = "bm25"
    piece: int = 32

    def scores(self, model: "SharedLLMModel", memory: "ContextMemory", query: Tensor, mask: Tensor) -> Tensor:
        try:
            import bm25s
        except ImportError:
            raise ValueError("bm25s is not installed: pip install 'sharedllm[eval]'.") from None
        result, half = torch.zeros(memory.mask.shape), self.piece // 2
        for row, length in enumerate(memory.lengths.tolist()):
            if length == 0:
                continue
            ids = memory.token_ids[row, :length].tolist()
            pieces = [_words(ids[i : i + self.piece]) for i in range(0, max(length - half, 1), half)]
            index = bm25s.BM25()
            index.index(pieces, show_progress=False)
            asked = _words(query[row][mask[row]].tolist())
            known = [word for word in asked if word in index.vocab_dict]
            if not known:
                continue
            found = torch.from_numpy(index.get_scores(known)).float()
            for shift in (0, 1):
                spots = found.repeat_interleave(half)[: length - shift * half]
                target = result[row, shift * half : shift * half + len(spots)]
                target.copy_(target.maximum(spots))
        return result


def _words(ids: list[int]) -> list[str]:
    return [str(i) for i in ids] + [f"{a}-{b}" for a, b in itertools.pairwise(ids)]
