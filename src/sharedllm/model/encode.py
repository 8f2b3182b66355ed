"""From text to memory: cut chunks, grow trees, run the lower model, keep keys and values of the sampled tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..context.chunking import cat_ragged, check_ids, left_align
from ..context.pieces import cut_chunks, piece_size
from ..context.policies.base import SelectionPolicy, chooser
from ..context.tree import Nodes, Samples, choose_right, chunks, preserved_nodes, sample
from ..memory.context_memory import ContextMemory
from ..memory.segment import Sources, followed
from ..utils.errors import UserError
from .config import SharedLLMConfig
from .injection import KeyValueProjection
from .lower import LowerModel


@dataclass(frozen=True)
class ContextEncoder:
    """The lower model, with the settings for cutting a context and projecting from it.

    lower          reads the context
    upper          the upper model's bottom layers, for the state of a query
    projections    key and value projections of each injection pair; None for the lower layer's own
    selection      the policy that decides which parts stay fine
    noise          σ of the split noise as a share of a node's length; 0 outside training
    batch_tokens   most tokens run through the lower model at once
    keep_all       keep every token, to select from later
    own_strides    strides instead of the configuration's
    """

    config: SharedLLMConfig
    lower: LowerModel
    upper: LowerModel
    projections: Sequence[KeyValueProjection | None]
    selection: SelectionPolicy
    noise: float = 0.0
    batch_tokens: int | None = None
    keep_all: bool = False
    own_strides: Sequence[int] | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the tree's levels, coarse to fine."""
        return (1,) if self.keep_all else tuple(self.own_strides or self.config.strides)

    def project(self, states: list[Tensor]) -> list[Tensor]:
        """Residual streams (s, E) entering lower layers 0 … depth → P keys (s, G, D), then P values (s, G, D), then,
        with injection="deep", the streams (s, 1, E) from which deepening continues."""
        family, pairs = self.lower.family, []
        for (lower_index, _), projection in zip(self.config.injection_map, self.projections, strict=True):
            hidden = states[lower_index]
            if projection is None:
                layer = self.lower.layers[lower_index]
                pairs.append(
                    family.keys_values(getattr(layer, family.attention), family.attention_input(layer, hidden))
                )
            else:
                pairs.append(family.keys_values(projection, projection.norm(hidden)))
        residuals = [states[-1][:, None]] if self.config.injection == "deep" else []
        return [keys for keys, _ in pairs] + [values for _, values in pairs] + residuals


@dataclass(frozen=True)
class _View:
    """A selection policy's view of the context and the query (see `context.policies.base.NodeView`)."""

    encoder: ContextEncoder
    ids: Tensor
    roots: Nodes
    query_ids: Tensor | None
    query_mask: Tensor | None

    def node_states(self, nodes: Nodes) -> Tensor:
        if self.encoder.config.encoding == "node":
            # Nodes are encoded alone: each is a unit whose only sample is its last token.
            return self._last_states(nodes, nodes, torch.arange(len(nodes)))
        order = torch.argsort(root_index(self.roots, nodes.row, nodes.chunk) * (1 << 32) + nodes.end)
        ordered = nodes[order]
        states = self._last_states(self.roots, ordered, root_index(self.roots, ordered.row, ordered.chunk))
        return states[torch.argsort(order).to(states.device)]

    def query_states(self) -> Tensor:
        if self.query_ids is None:
            raise UserError(
                f"selection={self.encoder.selection.name!r} needs a query: pass query_ids, or use selection='right'."
            )
        vocabulary = self.encoder.lower.config.vocab_size
        ids, lengths = left_align(self.query_ids, check_ids("query_ids", self.query_ids, self.query_mask, vocabulary))
        if (lengths == 0).any() or len(lengths) != len(self.ids):
            raise UserError(
                f"query_ids holds queries of {lengths.tolist()} tokens for {len(self.ids)} texts: give each text one."
            )
        rows = torch.arange(len(ids))
        units = Nodes(rows, torch.zeros_like(rows), torch.zeros_like(rows), lengths.cpu(), torch.zeros_like(rows))
        return self.encoder.upper.encode(ids, units, rows, units.end - 1, 1, lambda states: [states[1]])[0]

    def _last_states(self, units: Nodes, nodes: Nodes, unit: Tensor) -> Tensor:
        tokens = self.encoder.batch_tokens
        return self.encoder.lower.encode(self.ids, units, unit, nodes.end - 1, 1, lambda s: [s[1]], tokens)[0]


def root_index(roots: Nodes, row: Tensor, chunk: Tensor) -> Tensor:
    """(n,) index of each entry's chunk in `roots`, which are sorted by text and chunk."""
    counts = torch.bincount(roots.row, minlength=int(row.max()) + 1 if len(row) else 0)
    return (torch.cumsum(counts, 0) - counts)[row] + chunk


def plan(
    encoder: ContextEncoder, ids: Tensor, lengths: Tensor, query: Tensor | None, query_mask: Tensor | None
) -> tuple[Nodes, Tensor, Samples]:
    """Choose the tokens to keep and the spans in which to encode them.

    Returns:
        units (spans, each encoded alone), the unit (s,) of every sample, samples.
    """
    roots = chunks(lengths.cpu(), encoder.config.chunk_size)
    view = _View(encoder, ids, roots, query, query_mask)
    with torch.no_grad():
        choose = choose_right if encoder.keep_all else chooser(encoder.selection, view)
        nodes = preserved_nodes(roots, len(encoder.strides), choose, encoder.noise)
    samples = sample(nodes, encoder.strides, encoder.config.keep)
    if encoder.config.encoding == "node":
        return nodes, samples.node, samples
    if encoder.config.closing:
        units = pieces_of(encoder.config, ids.cpu(), lengths.cpu())
        # Places in all texts, one text after the other.
        far = ids.shape[1] + 1
        unit = torch.searchsorted(units.row * far + units.start, samples.row * far + samples.position, right=True)
        return units, unit - 1, samples
    start = (roots.start - encoder.config.overlap).clamp(min=0)
    units = replace(roots, start=start, length=roots.end - start)
    return units, root_index(roots, samples.row, samples.chunk), samples


def pieces_of(config: SharedLLMConfig, ids: Tensor, lengths: Tensor) -> Nodes:
    """The pieces of chunks that a model with `closing` reads one by one, for texts (B, T) of `lengths` (B,) tokens."""
    marks, least = config.marks, piece_size(config.window)
    assert marks
    found = []
    for row, length in enumerate(lengths.tolist()):
        pieces = cut_chunks(marks, ids[row, :length], config.chunk_size, least)
        rows = torch.full_like(pieces.start, row)
        chunk = pieces.start // config.chunk_size
        found.append(Nodes(rows, chunk, pieces.start, pieces.lengths, torch.zeros_like(rows)))
    return Nodes.cat(found)


def read_context(
    encoder: ContextEncoder,
    context_ids: Tensor,
    context_mask: Tensor | None = None,
    query_ids: Tensor | None = None,
    query_mask: Tensor | None = None,
    *,
    sources: list[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ContextMemory:
    """Read a batch of contexts; see `SharedLLMModel.read`."""
    mask = check_ids("context_ids", context_ids, context_mask, encoder.lower.config.vocab_size)
    ids, lengths = left_align(context_ids, mask)
    if sources is not None and len(sources) != len(ids):
        raise UserError(f"sources names {len(sources)} texts, context_ids has {len(ids)}: give each text one name.")
    units, unit, samples = plan(encoder, ids, lengths, query_ids, query_mask)
    flat = encoder.lower.encode(
        ids,
        units,
        unit,
        samples.position,
        encoder.config.depth,
        encoder.project,
        encoder.batch_tokens,
        progress,
    )
    index, kept = _rows(samples, len(ids), ids.device)
    # Contiguous by head: products with other layouts are many times slower in bfloat16 on CPUs.
    heads = [_gather(flat.pop(0), index, kept).transpose(1, 2).contiguous() for _ in range(len(flat))]
    pairs = len(encoder.projections)
    return ContextMemory(
        keys=tuple(heads[:pairs]),
        values=tuple(heads[pairs : 2 * pairs]),
        residuals=tuple(heads[2 * pairs :]),
        mask=kept,
        chunk=_gather(samples.chunk.to(ids.device), index, kept),
        position=_gather(samples.position.to(ids.device), index, kept),
        stride=_gather(samples.stride.to(ids.device), index, kept),
        token_ids=ids.to(torch.int32),
        lengths=lengths,
        chunk_size=encoder.config.chunk_size,
        sources=_sources(sources, lengths),
    )


def append_context(
    encoder: ContextEncoder,
    memory: ContextMemory,
    context_ids: Tensor,
    context_mask: Tensor | None = None,
    query_ids: Tensor | None = None,
    query_mask: Tensor | None = None,
    *,
    sources: list[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ContextMemory:
    """Read more text and append it to a memory; see `SharedLLMModel.append`."""
    if len(memory) != len(context_ids):
        raise UserError(f"the memory holds {len(memory)} texts, context_ids has {len(context_ids)}: make them equal.")
    mask = check_ids("context_ids", context_ids, context_mask, encoder.lower.config.vocab_size)
    ids, lengths = left_align(context_ids, mask)
    size = memory.chunk_size
    # Unfinished chunks are read again. So are the chunks before them that they overlap with, but their result is kept.
    again = -(-encoder.config.overlap // size) * size
    whole = memory.lengths // size * size
    begin = (whole - again).clamp(min=0)
    positions = torch.arange(memory.token_ids.shape[1], device=ids.device)
    tail, tail_lengths = left_align(
        memory.token_ids.to(ids), (positions >= begin[:, None]) & (positions < memory.lengths[:, None])
    )
    joined = cat_ragged(tail, tail_lengths, ids, lengths)
    joined_mask = torch.arange(joined.shape[1], device=ids.device) < (tail_lengths + lengths)[:, None]
    later = read_context(encoder, joined, joined_mask, query_ids, query_mask, sources=sources, progress=progress)
    if again:
        later = later.slice(whole - begin, later.lengths)
    grown = memory.slice(0, whole).append(replace(later, fingerprint=memory.fingerprint))
    # What was read again is the memory's own text.
    return replace(grown, sources=followed(memory.sources, memory.lengths, _sources(sources, lengths), lengths))


def _sources(names: list[str] | None, lengths: Tensor) -> Sources:
    """The sources of texts (B,) of one document each."""
    if names is None:
        return ((),) * len(lengths)
    return tuple(({"name": name, "tokens": n},) for name, n in zip(names, lengths.tolist(), strict=True))


def _rows(samples: Samples, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, S) index of each text's samples, and a mask of the real ones."""
    counts = torch.bincount(samples.row, minlength=batch)
    first = torch.cumsum(counts, 0) - counts
    columns = torch.arange(int(counts.max()) if batch else 0)
    kept = columns < counts[:, None]
    return ((first[:, None] + columns) * kept).to(device), kept.to(device)


def _gather(flat: Tensor, index: Tensor, kept: Tensor) -> Tensor:
    """(s, …) at (B, S) → (B, S, …), zero where nothing is kept."""
    if len(flat) == index.numel():  # nothing is padded
        return flat.view(*index.shape, *flat.shape[1:])
    return flat[index] * kept.reshape(*kept.shape, *[1] * (flat.ndim - 1)).to(flat.dtype)
