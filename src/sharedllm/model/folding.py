"""Endless running text: what the window no longer holds is folded into the memory, oldest chunks first."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..context.chunking import Split, split_context
from ..memory.context_memory import ContextMemory
from .backbone import SharedLLMModel
from .cross_attention import PreparedMemory


def running_after_fold(lengths: Tensor, window: int, chunk_size: int) -> Tensor:
    """(B,) how many tokens of running texts of `lengths` (B,) go on running; those before them are folded.

    A text that fits into the window stays whole. Of any other as many whole chunks are folded as leave at least half of
    the window: each fold then makes room for about half a window, and what has to be run again after it is no longer than
    that. Where a chunk is longer than half of the window, half of the window stays, and the chunk is folded in parts.
    """
    excess = lengths - (window + 1) // 2
    unit = chunk_size if chunk_size <= window // 2 else 1
    return torch.where(lengths > window, lengths - excess // unit * unit, lengths)


@dataclass
class Folding:
    """Running texts that grow, and the memory of all before them; together they are the whole text at any time.

    model                   reads what is folded
    memory                  of what stands before the running text; None if nothing does
    ids, mask               (B, R) the running text, left-padded; R is the longest row's
    query_ids, query_mask   (B, Q) for policies that need a query
    memory_dtype            how it is held; None for the configuration's
    prepared                the memory, ready to be attended to; None until something is folded
    """

    model: SharedLLMModel
    memory: ContextMemory | None
    ids: Tensor
    mask: Tensor
    query_ids: Tensor
    query_mask: Tensor | None = None
    memory_dtype: str | None = None
    prepared: PreparedMemory | None = field(default=None, init=False)

    def repeat_interleave(self, repeats: int) -> "Folding":
        """Every text `repeats` times in a row."""
        return Folding(
            self.model,
            None if self.memory is None else self.memory.repeat_interleave(repeats),
            self.ids.repeat_interleave(repeats, 0),
            self.mask.repeat_interleave(repeats, 0),
            self.query_ids.repeat_interleave(repeats, 0),
            None if self.query_mask is None else self.query_mask.repeat_interleave(repeats, 0),
            self.memory_dtype,
        )

    def add(self, tokens: Tensor) -> bool:
        """Put tokens (B, n) behind the running texts and fold those that have outgrown the window; whether any had.

        After a fold the running text stands elsewhere in (B, R) and follows another memory, so no cache of it is good.
        """
        self.ids = torch.cat([self.ids, tokens], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens, dtype=torch.bool)], 1)
        config = self.model.config
        if self.ids.shape[1] <= config.window:
            return False
        stay = running_after_fold(self.mask.sum(1), config.window, config.chunk_size)
        split = split_context(self.ids, self.mask, stay)
        self.memory = fold(self.model, self.memory, split, self.query_ids, self.query_mask)
        self.prepared = self.model.prepare_memory(self.memory, memory_dtype=self.memory_dtype)
        self.ids, self.mask = split.running_ids, split.running_mask
        return True


def fold(
    model: SharedLLMModel,
    memory: ContextMemory | None,
    split: Split,
    query_ids: Tensor | None,
    query_mask: Tensor | None,
) -> ContextMemory | None:
    """The memory with the context of `split` read behind what it holds already; rows without a context keep theirs."""
    if split.context_ids.shape[1] == 0:
        return memory
    if memory is None:
        return model.read(split.context_ids, split.context_mask, query_ids, query_mask, fingerprint=False)
    memory = memory.to(split.context_ids.device)
    return model.append(memory, split.context_ids, split.context_mask, query_ids=query_ids, query_mask=query_mask)
