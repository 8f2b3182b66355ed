"""What can be selected from: stretches of text of which every token is kept, in memory or on disk, one behind the other.

Each part begins at a chunk border of the whole, so a part can be added or taken away without reading the others again.
Places in the whole are *slots*: chunk · C + offset. Between the end of a part that does not fill its last chunk and the next
part slots are empty.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..utils.errors import UserError
from .context_memory import ContextMemory


@dataclass(frozen=True)
class Part:
    """One stretch of each of B texts.

    token_ids   (B, T) int32, padded behind the end of a text
    lengths     (B,) int64, its tokens
    chunk_size  C
    pairs       P, injected layers
    keys        pair, columns (B, c) or None for all → (B, G, c or T, D), before RoPE; read when asked for
    values      as keys
    start       slot of the first token, a multiple of C
    sources     of each text, what was read, with the slots they begin at
    fingerprint identifies the model that read it; "" if unknown
    """

    token_ids: Tensor
    lengths: Tensor
    chunk_size: int
    pairs: int
    keys: Callable[[int, Tensor | None], Tensor]
    values: Callable[[int, Tensor | None], Tensor]
    start: int = 0
    sources: tuple[tuple[dict, ...], ...] = ()
    fingerprint: str = ""

    @property
    def end(self) -> int:
        """Slot behind the last token of the longest text."""
        return self.start + int(self.lengths.max())


@runtime_checkable
class HasParts(Protocol):
    """Anything that is made of parts, such as a store on disk."""

    @property
    def parts(self) -> Sequence[Part]: ...


Source = ContextMemory | HasParts | Sequence["ContextMemory | HasParts"]


def parts_of(source: Source) -> list[Part]:
    """The parts of one source, or of several one behind the other.

    Raises:
        UserError: a memory that does not hold every token, several sources of more than one text, or of several models.
    """
    parts: list[Part] = []
    for single in source if isinstance(source, Sequence) else [source]:
        offset = _after(parts)
        for part in single.parts if isinstance(single, HasParts) else [_of_memory(single)]:
            parts.append(_moved(part, offset) if offset else part)
    if not parts:
        raise UserError("there is nothing to select from: name at least one memory.")
    if len(parts) > 1 and any(len(part.lengths) > 1 for part in parts):
        raise UserError("several memories of more than one text can't be selected from together: take one text each.")
    for name in ("chunk_size", "pairs", "fingerprint"):
        found = {getattr(part, name) for part in parts} - {""}
        if len(found) > 1:
            raise UserError(f"the memories differ in {name}, {sorted(found)}: read them with one model.")
    return parts


def roots(parts: Sequence[Part], row: int) -> tuple[Tensor, Tensor]:
    """Slots at which the chunks of a text begin and end, ascending."""
    starts, ends = [], []
    for part in parts:
        length = int(part.lengths[row])
        first = torch.arange(0, length, part.chunk_size)
        starts.append(part.start + first)
        ends.append(part.start + (first + part.chunk_size).clamp(max=length))
    return torch.cat(starts), torch.cat(ends)


def take(parts: Sequence[Part], slots: list[Tensor], strides: list[Tensor]) -> ContextMemory:
    """The memory of chosen tokens.

    Args:
        slots: of each text, ascending (s,). strides: of each text, the strides (s,) that they are kept at.
    """
    batch, size = len(slots), parts[0].chunk_size
    width = max(map(len, slots))
    mask = torch.arange(width) < torch.tensor([len(s) for s in slots])[:, None]
    position, ratio = torch.zeros(batch, width, dtype=torch.long), torch.zeros(batch, width, dtype=torch.long)
    for row in range(batch):
        position[row, : len(slots[row])], ratio[row, : len(slots[row])] = slots[row], strides[row]
    # Of each part the columns that are wanted of it, rows padded with its first token.
    borders = torch.tensor([part.start for part in parts[1:]])
    owner = torch.bucketize(position, borders, right=True).masked_fill(~mask, -1)
    wanted = [(part, owner == index) for index, part in enumerate(parts) if (owner == index).any()]

    def gather(kind: str, pair: int) -> Tensor:
        found = []
        for part, here in wanted:
            columns = torch.nonzero(here.any(0)).flatten()
            local = (position[:, columns] - part.start) * here[:, columns]
            tensor = getattr(part, kind)(pair, local)
            found.append(tensor.masked_fill(~here[:, None, columns, None].to(tensor.device), 0))
        # Several parts hold one text each, whose tokens come in the order of the parts.
        return torch.cat(found, 2) if found else getattr(parts[0], kind)(pair, position)

    last = parts[-1]
    ids = torch.zeros(batch, max(part.end for part in parts), dtype=torch.int32)
    for part in parts:
        ids[:, part.start : part.start + part.token_ids.shape[1]] = part.token_ids[:, : part.end - part.start].cpu()
    memory = ContextMemory(
        keys=tuple(gather("keys", pair) for pair in range(last.pairs)),
        values=tuple(gather("values", pair) for pair in range(last.pairs)),
        mask=mask,
        chunk=position // size,
        position=position,
        ratio=ratio,
        token_ids=ids,
        lengths=last.start + last.lengths.cpu(),
        chunk_size=size,
        sources=tuple(tuple(s for part in parts for s in part.sources[row]) for row in range(batch)),
        fingerprint=max(part.fingerprint for part in parts),
    )
    return memory.to(memory.keys[0].device)


def _after(parts: list[Part]) -> int:
    """The first chunk border behind all parts."""
    return max((-(-part.end // part.chunk_size) * part.chunk_size for part in parts), default=0)


def _moved(part: Part, offset: int) -> Part:
    sources = tuple(tuple(s | {"start": s.get("start", 0) + offset} for s in text) for text in part.sources)
    return replace(part, start=part.start + offset, sources=sources)


def _of_memory(memory: ContextMemory) -> Part:
    if not memory.complete:
        raise UserError("the memory does not hold every token: read the text with keep_all=True to select from it.")
    return Part(
        token_ids=memory.token_ids,
        lengths=memory.lengths,
        chunk_size=memory.chunk_size,
        pairs=len(memory.keys),
        keys=lambda pair, columns: columns_of(memory.keys[pair], columns),
        values=lambda pair, columns: columns_of(memory.values[pair], columns),
        sources=tuple(placed(text) for text in memory.sources),
        fingerprint=memory.fingerprint,
    )


def columns_of(heads: Tensor, columns: Tensor | None) -> Tensor:
    """(B, G, T, D) at columns (B, c) → (B, G, c, D); all of it for None."""
    if columns is None:
        return heads
    index = columns.to(heads.device)[:, None, :, None]
    return heads.gather(2, index.expand(-1, heads.shape[1], -1, heads.shape[3]))


def placed(sources: Iterable[dict]) -> tuple[dict, ...]:
    """Sources with the slot that each begins at: behind the one before unless it says so."""
    out, at = [], 0
    for source in sources:
        start = source.get("start", at)
        out.append(source | {"start": start})
        at = start + source["tokens"]
    return tuple(out)
