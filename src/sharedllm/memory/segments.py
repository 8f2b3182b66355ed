"""Segments to select from: stretches of text of which every token is kept, in RAM or on disk, one after the other.

Each segment begins at a chunk border, so segments can be added or removed without reading the others again. Positions
over all segments are *slots*: chunk · C + offset. If a segment does not fill its last chunk, the slots up to the next
segment are empty.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..utils.errors import UserError, named_type
from .context_memory import ContextMemory
from .interface import Memory
from .segment import Segment

Source = Memory | Sequence[Memory]


def segments_of(source: Source) -> list[Segment]:
    """The segments of one source, or of several, one after the other.

    Raises:
        UserError: a memory that does not hold every token, several sources of more than one text, or of several models.
    """
    segments: list[Segment] = []
    for single in source if isinstance(source, Sequence) else [source]:
        if not hasattr(single, "segments"):
            raise UserError(f"{named_type(single)} is no memory: pass what read() or open_memory() returns.")
        offset = _after(segments)
        for segment in single.segments:
            segments.append(_moved(segment, offset) if offset else segment)
    if not segments:
        raise UserError("there is nothing to select from: name at least one memory.")
    if len(segments) > 1 and any(len(segment.lengths) > 1 for segment in segments):
        raise UserError("can't select from several memories that hold more than one text each: take one text each.")
    for name in ("chunk_size", "pairs", "fingerprint"):
        found = {getattr(segment, name) for segment in segments} - {""}
        if len(found) > 1:
            raise UserError(f"the memories differ in {name}, {sorted(found)}: read them with one model.")
    return segments


def roots(segments: Sequence[Segment], row: int) -> tuple[Tensor, Tensor]:
    """The slots at which the chunks of a text begin and end, ascending."""
    starts, ends = [], []
    for segment in segments:
        length = int(segment.lengths[row])
        first = torch.arange(0, length, segment.chunk_size)
        starts.append(segment.start + first)
        ends.append(segment.start + (first + segment.chunk_size).clamp(max=length))
    return torch.cat(starts), torch.cat(ends)


def take(segments: Sequence[Segment], slots: list[Tensor], strides: list[Tensor]) -> ContextMemory:
    """The memory of chosen tokens.

    Args:
        slots: for each text ascending slots (s,). strides: for each text their strides (s,).
    """
    batch, size = len(slots), segments[0].chunk_size
    width = max(map(len, slots))
    mask = torch.arange(width) < torch.tensor([len(s) for s in slots])[:, None]
    position, stride = torch.zeros(batch, width, dtype=torch.long), torch.zeros(batch, width, dtype=torch.long)
    for row in range(batch):
        position[row, : len(slots[row])], stride[row, : len(slots[row])] = slots[row], strides[row]
    # The chosen columns of each segment; rows are padded with its first token.
    borders = torch.tensor([segment.start for segment in segments[1:]])
    owner = torch.bucketize(position, borders, right=True).masked_fill(~mask, -1)
    wanted = [(segment, owner == index) for index, segment in enumerate(segments) if (owner == index).any()]

    def gather(read: Callable[[Segment], Callable[[Tensor | None], Tensor]]) -> Tensor:
        found = []
        for segment, here in wanted:
            columns = torch.nonzero(here.any(0)).flatten()
            local = (position[:, columns] - segment.start) * here[:, columns]
            tensor = read(segment)(local)
            found.append(tensor.masked_fill(~here[:, None, columns, None].to(tensor.device), 0))
        # If there are several segments, each holds one text, and the tokens are in the order of the segments.
        return torch.cat(found, 2) if found else read(segments[0])(position)

    last = segments[-1]
    ids = torch.zeros(batch, max(segment.end for segment in segments), dtype=torch.int32)
    for segment in segments:
        ids[:, segment.start : segment.start + segment.token_ids.shape[1]] = segment.token_ids[
            :, : segment.end - segment.start
        ].cpu()
    memory = ContextMemory(
        keys=tuple(gather(lambda s, pair=pair: partial(s.keys, pair)) for pair in range(last.pairs)),
        values=tuple(gather(lambda s, pair=pair: partial(s.values, pair)) for pair in range(last.pairs)),
        residuals=(gather(_residuals),) if last.residuals is not None else (),
        mask=mask,
        chunk=position // size,
        position=position,
        stride=stride,
        token_ids=ids,
        lengths=last.start + last.lengths.cpu(),
        chunk_size=size,
        sources=tuple(tuple(s for segment in segments for s in segment.sources[row]) for row in range(batch)),
        fingerprint=max(segment.fingerprint for segment in segments),
    )
    return memory.to(memory.keys[0].device)


def states_at(segments: Sequence[Segment], slots: Tensor) -> Tensor:
    """(s, E) the residual streams kept of one text's tokens at ascending slots (s,)."""
    found = []
    for segment in segments:
        here = slots[(slots >= segment.start) & (slots < segment.end)] - segment.start
        if len(here):
            found.append(_residuals(segment)(here[None])[0, 0])
    return torch.cat(found) if len(found) != 1 else found[0]


def _residuals(segment: Segment) -> Callable[[Tensor | None], Tensor]:
    """What reads a segment's residual stream; of one model all segments have one, or none has."""
    if segment.residuals is None:
        raise UserError("one of the memories holds no residual streams: read its text again with this model.")
    return segment.residuals


def _after(segments: list[Segment]) -> int:
    """The first chunk border after all segments."""
    return max((-(-segment.end // segment.chunk_size) * segment.chunk_size for segment in segments), default=0)


def _moved(segment: Segment, offset: int) -> Segment:
    sources = tuple(tuple(s | {"start": s.get("start", 0) + offset} for s in text) for text in segment.sources)
    return replace(segment, start=segment.start + offset, sources=sources)
