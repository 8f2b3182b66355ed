"""Endless running text: when it outgrows the window, its oldest chunks are folded into the memory."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..context.chunking import Split, split_context
from ..memory.context_memory import ContextMemory
from .backbone import SharedLLMModel
from .cross_attention import PreparedMemory


def running_after_fold(lengths: Tensor, window: int, chunk_size: int) -> Tensor:
    """(B,) how many tokens of running texts of `lengths` (B,) stay; those before them are folded.

    A text that fits into the window stays whole. Of any other text, whole chunks are folded as long as at least half a
    window stays. Each fold thus frees about half a window, and no more than that has to be run again. If a chunk is
    longer than half the window, half the window stays, and the chunk is folded in parts.
    """
    excess = lengths - (window + 1) // 2
    unit = chunk_size if chunk_size <= window // 2 else 1
    return torch.where(lengths > window, lengths - excess // unit * unit, lengths)


@dataclass
class Folding:
    """Growing running texts and the memory of everything before them. Together they are always the whole text.

    model                   reads the folded text
    memory                  of the text before the running text; None if there is none
    ids, mask               (B, R) the running text, left-padded; R is the longest row's
    query_ids, query_mask   (B, Q) for policies that need a query
    memory_dtype            see `SharedLLMConfig`; None for the configuration's
    prepared                the memory with positions, to attend to; None until something is folded
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
        """Append tokens (B, n) to the running texts and fold those that outgrow the window. Returns whether any did.

        A fold moves the running text in (B, R) and changes the memory before it, so its caches become invalid.
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
    """Append the context of `split` to the memory; rows without a context keep theirs."""
    if split.context_ids.shape[1] == 0:
        return memory
    if memory is None:
        return model.read(split.context_ids, split.context_mask, query_ids, query_mask, fingerprint=False)
    memory = memory.to(split.context_ids.device)
    return model.append(memory, split.context_ids, split.context_mask, query_ids, query_mask)
