"""The lower model: the bottom layers of the checkpoint, run over spans of the context.

It computes only the hidden states that the memory needs, with the same result as running everything. If states up to
depth d are needed at a few sampled tokens, layers 1 … d − 1 run whole, and layer d computes keys and values everywhere
but queries, output projection and MLP only at the sampled tokens. Keys and values of one more layer, M = d + 1, are
projected from these states, so nothing else of layer M runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..context.spaces import beginnings
from ..context.tree import Nodes
from ..utils.hardware import free_memory
from .families import Family, family_of
from .layer_run import Before, LayerRun, taken

# More at once is not faster: on a CPU activations no longer fit into its caches.
MOST_TOKENS, MOST_ON_CPU = 32_768, 4_096
# Units that are read together have at least this share of the longest one's length: larger products are faster, padding is waste.
ALIKE = 0.95
# Residual streams entering layers 0 … depth, each (s, E) → tensors of leading dimension s.
Project = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class LowerModel:
    """The lower model. It does not own its weights: they are the upper model's bottom layers, or a copy of them.

    layers   decoder layers, bottom first
    embed    token embedding
    rotary   the base's rotary embedding
    config   the base's configuration
    least    how many layers to run at least, all of them whole, to measure what the shortcut saves; None: those that states need
    prefix   token ids before every unit, read once; without them its first tokens would look like the beginning of a text
    bare     the setting of this name: units begin without a space
    """

    layers: nn.ModuleList
    embed: nn.Embedding
    rotary: nn.Module
    config: PreTrainedConfig
    least: int | None = None
    prefix: tuple[int, ...] = ()
    bare: str | None = None

    @property
    def family(self) -> Family:
        return family_of(self.config)

    def fitting(self, depth: int, device: torch.device) -> int:
        """How many tokens may run through `depth` layers at once: their activations take at most a quarter of the
        device's free memory."""
        most, free = MOST_ON_CPU if device.type == "cpu" else MOST_TOKENS, free_memory(device)
        if free is None:
            return most
        size = self.config.hidden_size
        # Residual streams of all layers, input and output of attention and MLP, keys and values; then the MLP's inner states.
        elements = (depth + 12) * size + 3 * getattr(self.config, "intermediate_size", 4 * size)
        return max(1, min(most, free // (4 * elements * self.embed.weight.dtype.itemsize)))

    def encode(
        self,
        ids: Tensor,
        units: Nodes,
        unit: Tensor,
        position: Tensor,
        depth: int,
        project: Project,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
        layer: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """Read each unit by itself, after the prefix, and project the states of its sampled tokens.

        Args:
            ids: (B, T) token ids of the texts.
            units: u spans, each encoded alone.
            unit: (s,) index of each sampled token's unit; not descending.
            position: (s,) its position in its text; ascending within a unit.
            depth: how many layers to run.
            project: maps the residual streams entering layers 0 … depth, depth + 1 tensors (s', E) for some of the
                samples, to any tensors of leading dimension s'. Called at least once.
            batch_tokens: most tokens run at once; None for the result of `fitting`.
            progress: called with the number of tokens read since the last call. layer: called after each layer of a batch.

        Returns:
            The results of `project` for all samples, in their order.
        """
        batch_tokens = batch_tokens or self.fitting(depth, ids.device)
        gathered = _Gathered(len(unit), ids.device)
        before = self.read_prefix(self._layers(depth)) if self.prefix and len(unit) else None
        for samples, token_ids, offsets in self._batches(ids, units, unit, position, batch_tokens):
            states = [state.flatten(0, 1) for state in self._run(token_ids, offsets, depth, before, layer)]
            real = samples.flatten() >= 0
            padded = int((~real).sum())
            if padded:
                samples, real = samples.flatten()[real], real.to(ids.device)
                states = [state[real] for state in states]
            gathered.add(samples, project(states))
            if progress is not None:
                progress(token_ids.numel() - padded)
        if not len(unit):
            none = self.embed.weight.new_zeros(0, self.config.hidden_size)
            return project([none] * (depth + 1))
        return gathered.tensors()

    def _layers(self, depth: int) -> int:
        """How many layers run for states up to a depth."""
        return max(depth, self.least or 0)

    def _batches(
        self, ids: Tensor, units: Nodes, unit: Tensor, position: Tensor, batch_tokens: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of units that are alike (see `_alike`), padded on the right, which changes nothing, because attention is
        causal.

        Yields sample indices (u', k), −1 for padding, token ids (u', l) and sampled offsets (u', k).
        """
        counts = torch.bincount(unit, minlength=len(units))
        first = torch.cumsum(counts, 0) - counts
        begun = torch.from_numpy(beginnings(self.bare, self.config.vocab_size)).to(ids.device) if self.bare else None
        for members in _alike(units.length, counts):
            longest = int(units.length[members].max())
            columns, places = torch.arange(longest), torch.arange(int(counts[members].max()))
            for part in members.split(max(1, batch_tokens // (longest + len(self.prefix)))):
                start, end = units.start[part][:, None], units.end[part][:, None]
                samples = torch.where(places < counts[part][:, None], first[part][:, None] + places, -1)
                offsets = torch.where(samples < 0, places, position[samples] - start)
                rows, places_in_text = units.row[part][:, None], (start + columns).clamp(max=end - 1)
                token_ids = ids[rows.to(ids.device), places_in_text.to(ids.device)].long()
                if begun is not None:
                    token_ids[:, 0] = begun[token_ids[:, 0]]
                yield samples, token_ids, offsets.to(ids.device)

    def _run(
        self,
        ids: Tensor,
        offsets: Tensor,
        depth: int,
        before: list[Before] | None = None,
        ran: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """States (u, k, E) at `offsets` (u, k) entering layers 0 … depth, for units `ids` (u, l)."""
        hidden = self.family.embed(self.config, self.embed(ids))
        states = [taken(hidden, offsets)]
        layers = self._layers(depth)
        if layers == 0:
            return states
        run = LayerRun(self.layers, self.rotary, self.config, hidden, len(self.prefix))
        for index in range(layers):
            seen = before[index] if before else None
            if index == depth - 1 and self.least is None and offsets.shape[1] < ids.shape[1]:
                states.append(run.sampled(index, hidden, seen, offsets))
            else:
                hidden = run.layer(index, hidden, seen)[0]
                states.append(taken(hidden, offsets))
            if ran is not None:
                ran()
        return states[: depth + 1]

    def read_prefix(self, layers: int) -> list[Before]:
        """Rotated keys and values (1, G, p, D) of the prefix in so many layers. No token before it changes them, so they are
        the same for every unit."""
        ids = torch.tensor([list(self.prefix)], dtype=torch.long, device=self.embed.weight.device)
        hidden = self.family.embed(self.config, self.embed(ids))
        run, found = LayerRun(self.layers, self.rotary, self.config, hidden, 0), []
        for index in range(layers):
            hidden, keys, values = run.layer(index, hidden, None, whole=index < layers - 1)
            found.append((keys, values))
        return found


def _alike(lengths: Tensor, counts: Tensor) -> Iterator[Tensor]:
    """Indices (m,) of units that are read together: those of the same length (u,) and number of samples (u,), or of nearly the
    same length, if every token is sampled. Units without samples are in none."""
    whole = lengths == counts
    some = torch.where(~whole & (counts > 0))[0]
    shapes = torch.stack([lengths[some], counts[some]], 1)
    for shape in torch.unique(shapes, dim=0) if len(some) else []:
        yield some[(shapes == shape).all(1)]
    rest = torch.where(whole & (counts > 0))[0]
    while len(rest):
        near = lengths[rest] >= ALIKE * int(lengths[rest].max())
        yield rest[near]
        rest = rest[~near]


class _Gathered:
    """Collects the tensors of batches into tensors of all samples, in the order of the samples."""

    def __init__(self, samples: int, device: torch.device):
        self._samples, self._device = samples, device
        self._whole: list[Tensor] = []
        self._order: list[Tensor] = []
        self._parts: list[list[Tensor]] = []

    def add(self, samples: Tensor, part: list[Tensor]) -> None:
        """Add a batch's tensors; `samples` are their indices. They are written in place, so nothing is stored twice."""
        index = samples.flatten().to(self._device)
        if torch.is_grad_enabled():
            # Backward through a tensor written piece by piece would process the whole tensor once per piece.
            self._order.append(index)
            self._parts.append(part)
            return
        self._whole = self._whole or [t.new_empty(self._samples, *t.shape[1:]) for t in part]
        for whole, tensor in zip(self._whole, part, strict=True):
            whole[index] = tensor

    def tensors(self) -> list[Tensor]:
        if not self._parts:
            return self._whole
        inverse = torch.argsort(torch.cat(self._order))
        return [torch.cat(tensors)[inverse] for tensors in zip(*self._parts, strict=True)]
