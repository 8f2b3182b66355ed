"""The base's states of a text's tokens after some layers: of pieces that are read alone, after the prefix."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..context.pieces import Pieces
from ..context.tree import Nodes
from ..memory.fingerprint import fingerprint_tensors
from ..memory.segment import Meanings
from ..memory.segments import Segment, states_at
from ..model.backbone import SharedLLMModel
from ..model.config import SharedLLMConfig
from ..model.deepen import read_on, read_prefix
from .base import token_ids
from .sentences import States

# Tokens whose states are compared at once.
_BLOCK = 16_384


def layers_kept(config: SharedLLMConfig) -> int | None:
    """How many of the layers that compare meanings a memory's tokens have been read through; None if its states are of no
    use for it, because they are deeper, or because they would have to be read on and chunks were read whole."""
    layers, kept = config.meaning_layers or 0, config.lower_layers
    return kept if kept == layers or (kept < layers and config.closing) else None


class KeptStates:
    """The states that the memory of a text keeps, and those that are read for a question and kept beside it.

    depth  how many layers the memory's own states have been read through; 0 if they are of no use, so that tokens are read anew
    """

    def __init__(self, model: SharedLLMModel, segments: Sequence[Segment], units: Pieces):
        """
        Args:
            segments: of one text, with residual streams. units: the pieces that were read alone.
        """
        self.model, self.depth = model, layers_kept(model.config) or 0
        self._segments, self._units = segments, units
        self._marks: dict[int, str] = {}

    def blocks(self, slots: Int[Tensor, " s"]) -> States:
        """The states of the tokens at ascending slots (s,), as the memory keeps them."""
        return lambda: (states_at(self._segments, part).cpu() for part in slots.split(_BLOCK))

    def loaded(self, slots: Int[Tensor, " s"], depth: int) -> Iterator[tuple[int, int, Float[Tensor, "t E"]]]:
        """Of each segment whose tokens are all at the ascending slots (s,), and were read on to `depth` before, by whichever
        process: its slots i … j − 1, and their states."""
        for meanings, first, last in self._whole(slots):
            if (states := meanings.load(self._mark(depth))) is not None:
                yield int(slots[first]), int(slots[last - 1]) + 1, states

    def keeps(self, slot: int) -> bool:
        """Whether states are kept beside the segment of a slot."""
        place = bisect_right(self._segments, slot, key=lambda segment: segment.start) - 1
        return self._segments[place].meanings is not None

    @torch.no_grad()
    def read_on(
        self, slots: Int[Tensor, " s"], depth: int, progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "s E"]:
        """The states of the tokens at ascending slots (s,) after so many layers, on the CPU. Those of segments whose tokens are
        all read are kept for other processes.

        progress: called with the number of tokens read since the last call.
        """
        found: list[tuple[Tensor, Tensor]] = []
        left = torch.ones(len(slots), dtype=torch.bool)
        for some in _together(self._whole(slots)):
            here = [torch.arange(first, last) for _, first, last in some]
            states = self._read_on(slots[torch.cat(here)], depth, progress).split([len(part) for part in here])
            for part, (meanings, _, _), read in zip(here, some, states, strict=True):
                found.append((part, meanings.save(self._mark(depth), read)))
                left[part] = False
        if left.any():
            found.append((left.nonzero()[:, 0], self._read_on(slots[left], depth, progress)))
        if len(found) == 1:
            return found[0][1]
        every = found[0][1].new_empty(len(slots), found[0][1].shape[1])
        for part, states in found:
            every[part] = states
        return every

    def _whole(self, slots: Int[Tensor, " s"]) -> list[tuple[Meanings, int, int]]:
        """The segments beside which states are kept, and whose tokens are all at ascending slots (s,): at i … j − 1 of these."""
        borders = torch.tensor([[segment.start, segment.end] for segment in self._segments])
        places = zip(self._segments, torch.searchsorted(slots.contiguous(), borders).tolist(), strict=True)
        return [
            (segment.meanings, first, last)
            for segment, (first, last) in places
            if segment.meanings is not None and last - first == int(segment.lengths[0])
        ]

    def _mark(self, depth: int) -> str:
        """Identifies the layers that read on to `depth`; what comes before them a memory's own fingerprint identifies."""
        if depth not in self._marks:
            before = self.model.config.lower_layers
            layers = enumerate(self.model.upper.layers[before:depth], before)
            named = [(f"{i}.{name}", t) for i, layer in layers for name, t in sorted(layer.state_dict().items())]
            self._marks[depth] = fingerprint_tensors(named, {"layers": depth})
        return self._marks[depth]

    def _read_on(
        self, slots: Int[Tensor, " s"], depth: int, progress: Callable[[int], None] | None
    ) -> Float[Tensor, "s E"]:
        model, config = self.model, self.model.config
        device = model.get_input_embeddings().weight.device
        units = self._units[self._units.owners(int(self._units.end[-1]))[slots].unique()]
        every = units.slots()
        if not self.depth:
            ids = token_ids(self._segments, 0)[every]
            (states,) = read_alone(model, ids.split(units.lengths.tolist()), [depth], progress)
            return torch.cat(states)[torch.isin(every, slots)]
        prefix = read_prefix(config, model.upper, depth)
        most = model.lower().fitting(depth, device)
        found: Tensor | None = None
        by_length = units.lengths.argsort(descending=True)
        while len(by_length):
            # Attention is causal, so padding on the right changes nothing.
            longest = int(units.lengths[by_length[0]])
            count = max(1, most // (longest + len(config.prefix or [])))
            batch, by_length = units[by_length[:count].sort().values], by_length[count:]
            inside = torch.arange(longest) < batch.lengths[:, None]
            states = states_at(self._segments, batch.slots())
            hidden = states.new_zeros(*inside.shape, states.shape[1])
            hidden[inside.to(hidden.device)] = states
            read = read_on(hidden.to(device), config, model.upper, prefix, depth).cpu()[inside]
            found = read.new_empty(len(every), read.shape[1]) if found is None else found
            found[torch.searchsorted(every, batch.slots())] = read
            if progress is not None:
                progress(len(read))
        assert found is not None
        return found[torch.isin(every, slots)]


def _together(whole: list[tuple[Meanings, int, int]]) -> Iterator[list[tuple[Meanings, int, int]]]:
    """Segments that are read at once: small ones together, so that a store of many short documents is read as fast as a long one."""
    some: list[tuple[Meanings, int, int]] = []
    for each in whole:
        if some and sum(last - first for _, first, last in [*some, each]) > _BLOCK // 2:
            yield some
            some = []
        some.append(each)
    if some:
        yield some


def read_alone(
    model: SharedLLMModel,
    texts: Sequence[Tensor],
    depths: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> list[list[Tensor]]:
    """For each depth the states (T, E) of each text (T,) after so many layers, each text read by itself, on the CPU."""
    lengths = torch.tensor([len(text) for text in texts])
    starts = torch.cumsum(lengths, 0) - lengths
    zeros = torch.zeros_like(lengths)
    units = Nodes(zeros, zeros, starts, lengths, zeros)
    unit, position = torch.repeat_interleave(torch.arange(len(texts)), lengths), torch.arange(int(lengths.sum()))
    ids = torch.cat(list(texts))[None].to(model.get_input_embeddings().weight.device)
    found = model.lower().encode(
        ids, units, unit, position, max(depths), lambda states: [states[d] for d in depths], progress=progress
    )
    return [list(states.cpu().split(lengths.tolist())) for states in found]
