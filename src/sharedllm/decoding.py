"""Texts that are continued together: each step runs one token of every row as one batch.

A decoding step reads all weights, whatever the number of rows, so eight rows cost little more than one. Rows come and go
between two steps. Each is read alone first, because reading is bound by arithmetic and gains nothing from a batch; has its
own memory, scores, random numbers and end; and gets the tokens that `generate` would give it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .model.cross_attention import PreparedMemory
from .model.merging import RowCache, mergeable, merged_caches, merged_memories, split_cache
from .rows import Row, border_of
from .utils.errors import at_least_one

# Default of the most rows at once.
ROWS = 8


class Group:
    """Rows that are run as one batch.

    A row is merged with others only if padding all to the longest reads fewer bytes than a step of its own, which reads
    all weights.
    """

    def __init__(self, rows: Sequence[Row], caches: Sequence[RowCache]):
        """caches: of each row, up to its last token; copied."""
        self.rows = list(rows)
        self._cache, self._mask = merged_caches(caches)
        self._memory = merged_memories([row.read.memory for row in rows])

    def fits(self, row: Row, weights: int) -> bool:
        """Whether a row may join. weights: bytes of the model's weights."""
        rows = [*self.rows, row]
        memories = [row.read.memory for row in rows]
        # Frequencies that go by the longest text of a batch would be wrong for the others.
        if border_of(row.model) is not None or not mergeable(memories):
            return False
        token = sum(t.nbytes for keys_values in row.read.cache for t in keys_values) // row.read.ids.shape[1]
        running = [row.running.shape[1] for row in rows]
        extra = (len(rows) * max(running) - sum(running)) * token
        distinct = {id(memory): nbytes(memory) for memory in memories}
        if len(distinct) > 1:
            extra += len(rows) * max(distinct.values()) - sum(distinct.values())
        return 2 * extra <= weights

    def joined(self, row: Row) -> "Group":
        return Group([*self.rows, row], [*self._caches(), row.read.cache])

    def left(self) -> "Group | None":
        """The group without rows that have ended or have to be read again; None if none is left."""
        stay = [
            (row, cache) for row, cache in zip(self.rows, self._caches(), strict=True) if not (row.ended or row.stale)
        ]
        if len(stay) == len(self.rows):
            return self
        return Group(*zip(*stay, strict=True)) if stay else None

    def step(self) -> None:
        """One token for each row."""
        tokens = torch.cat([row.running[:, -1:] for row in self.rows])
        positions = torch.tensor([[row.running.shape[1] - 1] for row in self.rows], device=tokens.device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        mask = None if self._mask.all() else self._mask.long()
        out = self.rows[0].model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            memory=self._memory,
            use_cache=True,
        )
        for row, logits in zip(self.rows, out.logits, strict=True):
            row.take(logits[-1:])

    def failed(self, error: Exception) -> None:
        for row in self.rows:
            row.fail(error)

    def _caches(self) -> list[RowCache]:
        return split_cache(self._cache, self._mask.sum(1).tolist())


def nbytes(memory: PreparedMemory | None) -> int:
    """Bytes of a memory's keys and values."""
    if memory is None:
        return 0
    return sum(t.nbytes for span in memory.layers.values() for t in span[:2] if isinstance(t, Tensor))


class Batch:
    """Rows of one model that are continued together, one token a step."""

    def __init__(self, most: int = ROWS):
        """most: rows at once."""
        self.most = at_least_one("batch", most)
        self._groups: list[Group] = []
        self._stale: list[Row] = []
        self._weights = 0

    @property
    def rows(self) -> list[Row]:
        return [row for group in self._groups for row in group.rows] + self._stale

    @property
    def room(self) -> int:
        return self.most - len(self.rows)

    @torch.no_grad()
    def add(self, row: Row) -> None:
        """Take a row in. Its first token is chosen at once, which may end it."""
        assert self.room > 0
        row.begin()
        self._place(row)

    @torch.no_grad()
    def step(self) -> list[Row]:
        """Continue every row by one token. Returns the rows that have ended, or failed, and are no longer here."""
        before, again = self.rows, self._stale
        self._stale = []
        for group in self._groups:
            try:
                group.step()
            except Exception as error:  # of all rows together: memory that is used up, say
                group.failed(error)
        for row in again:
            if not row.ended:
                row.read_again()
        self._regroup()
        for row in again:
            self._place(row)
        return [row for row in before if row.ended]

    @torch.no_grad()
    def remove(self, rows: Sequence[Row]) -> None:
        """Let rows go before their end."""
        for row in rows:
            row.ended = True
        self._stale = [row for row in self._stale if not row.ended]
        self._regroup()

    def _regroup(self) -> None:
        self._stale += [row for group in self._groups for row in group.rows if row.stale and not row.ended]
        groups = []
        for group in self._groups:
            try:
                left = group.left()
            except Exception as error:
                left = group.failed(error)
            groups += [] if left is None else [left]
        self._groups = groups

    def _place(self, row: Row) -> None:
        """Put a row whose next token was chosen into a group."""
        if row.ended:
            return
        if row.stale:
            self._stale.append(row)
            return
        self._weights = self._weights or sum(p.nbytes for p in row.model.parameters())
        try:
            for i, group in enumerate(self._groups):
                if group.fits(row, self._weights):
                    self._groups[i] = group.joined(row)
                    return
            self._groups.append(Group([row], [row.read.cache]))
        except Exception as error:
            row.fail(error)
