"""The lower model: the bottom layers of the checkpoint, run over spans of the context.

It computes only the hidden states that the memory needs, with the same result as running everything. If states up to
depth d are needed at a few sampled tokens, layers 1 … d − 1 run whole, and layer d computes keys and values everywhere
but queries, output projection and MLP only at the sampled tokens. Keys and values of one more layer, M = d + 1, are
projected from these states, so nothing else of layer M runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from ..context.tree import Nodes
from ..utils.hardware import free_memory
from .attention import attend
from .families import Family, Rotations, family_of, sliding_window
from .rope import rotate

# More at once is not faster: on a CPU activations no longer fit into its caches.
MOST_TOKENS, MOST_ON_CPU = 32_768, 4_096
# Residual streams entering layers 0 … depth, each (s, E) → tensors of leading dimension s.
Project = Callable[[list[Tensor]], list[Tensor]]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class LowerModel:
    """The lower model. It does not own its weights: they are the upper model's bottom layers, or a copy of them.

    layers   decoder layers, bottom first
    embed    token embedding
    rotary   the base's rotary embedding
    config   the base's configuration
    plain    run every layer whole, the last one included, to measure what the shortcut saves
    prefix   token ids put before every unit; without them its first tokens would look like the beginning of a text
    """

    layers: nn.ModuleList
    embed: nn.Embedding
    rotary: nn.Module
    config: PreTrainedConfig
    plain: bool = False
    prefix: tuple[int, ...] = ()

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
        for samples, token_ids, offsets in self._batches(ids, units, unit, position, batch_tokens):
            gathered.add(
                samples, project([state.flatten(0, 1) for state in self._run(token_ids, offsets, depth, layer)])
            )
            if progress is not None:
                progress(token_ids.numel() - len(token_ids) * len(self.prefix))
        if not len(unit):
            none = self.embed.weight.new_zeros(0, self.config.hidden_size)
            return project([none] * (depth + 1))
        return gathered.tensors()

    def _batches(
        self, ids: Tensor, units: Nodes, unit: Tensor, position: Tensor, batch_tokens: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of units of equal length and number of samples, so that nothing is padded.

        Yields sample indices (u', k), token ids (u', l) and sampled offsets (u', k).
        """
        counts = torch.bincount(unit, minlength=len(units))
        first = torch.cumsum(counts, 0) - counts
        groups = torch.unique(torch.stack([units.length, counts], 1), dim=0) if len(units) else []
        for length, count in (g.tolist() for g in groups):
            if count == 0:
                continue
            members = torch.where((units.length == length) & (counts == count))[0]
            for part in members.split(max(1, batch_tokens // (length + len(self.prefix)))):
                samples = first[part][:, None] + torch.arange(count)
                offsets = (position[samples] - units.start[part][:, None]).to(ids.device)
                columns = (units.start[part][:, None] + torch.arange(length)).to(ids.device)
                token_ids = ids[units.row[part].to(ids.device)[:, None], columns].long()
                if self.prefix:
                    before = token_ids.new_tensor(self.prefix).expand(len(part), -1)
                    token_ids, offsets = torch.cat([before, token_ids], 1), offsets + len(self.prefix)
                yield samples, token_ids, offsets

    def _run(self, ids: Tensor, offsets: Tensor, depth: int, ran: Callable[[], None] | None = None) -> list[Tensor]:
        """States (u, k, E) at `offsets` (u, k) entering layers 0 … depth, for units `ids` (u, l) of equal length."""
        hidden = self.family.embed(self.config, self.embed(ids))
        states = [_take(hidden, offsets)]
        if depth == 0 and not self.plain:
            return states
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        by, masks = Rotations(self.rotary, self.config, positions, hidden), {}
        for index in range(depth + self.plain):
            layer = self.layers[index]
            if index == depth - 1 and not self.plain and offsets.shape[1] + len(self.prefix) < ids.shape[1]:
                states.append(recomputed(layer, self._run_sampled, index, hidden, offsets, by))
            else:
                sliding = sliding_window(self.config, index) is not None
                if sliding not in masks:
                    masks[sliding] = causal_mask(self.config, hidden, sliding)
                hidden = recomputed(layer, self._run_whole, index, hidden, by, masks[sliding])
                states.append(_take(hidden, offsets))
            if ran is not None:
                ran()
        return states[: depth + 1]

    def _run_whole(self, index: int, hidden: Tensor, by: Rotations, mask: Tensor | None) -> Tensor:
        """One layer's output (u, l, E)."""
        layer = self.layers[index]
        attended, *_ = getattr(layer, self.family.attention)(
            hidden_states=self.family.attention_input(layer, hidden),
            position_embeddings=by.given(index),
            position_ids=by.positions,
            attention_mask=mask,
            past_key_values=None,
        )
        return self.family.combine(layer, hidden, attended)

    def _run_sampled(self, index: int, hidden: Tensor, offsets: Tensor, by: Rotations) -> Tensor:
        """One layer's output at `offsets` only: keys and values of all tokens, everything else only at the sampled ones."""
        family, layer = self.family, self.layers[index]
        attention = getattr(layer, family.attention)
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        distance = offsets[..., None] - columns
        sliding = sliding_window(self.config, index)
        normed = family.attention_input(layer, hidden)
        keys, values = (t.transpose(1, 2) for t in family.keys_values(attention, normed))
        queries = family.queries(attention, _take(normed, offsets)).transpose(1, 2)
        attended = attend(
            attention,
            self.config._attn_implementation,
            rotate(queries, by.queries(index, attention).at(offsets)),
            rotate(keys, by.keys(index, attention)),
            values,
            allowed=((distance >= 0) if sliding is None else (distance >= 0) & (distance < sliding))[:, None],
        )
        return family.combine(layer, _take(hidden, offsets), getattr(attention, family.output)(attended))


def recomputed(layer: nn.Module, run: Callable[..., _Result], *args: Any) -> _Result:
    """What `run` makes of its arguments. If the layer checkpoints its activations, the backward pass runs it again."""
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        return checkpoint(run, *args, use_reentrant=False)
    return run(*args)


def causal_mask(config: PreTrainedConfig, hidden: Tensor, sliding: bool, cache: Cache | None = None) -> Tensor | None:
    """The mask that transformers would give to self-attention over (u, l, E) without padding.

    Args:
        config: the base's. sliding: whether the layer sees a sliding window only. cache: has the tokens before these.
    """
    create = create_sliding_window_causal_mask if sliding else create_causal_mask
    return create(config=config, inputs_embeds=hidden, attention_mask=None, past_key_values=cache, position_ids=None)


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


def _take(hidden: Tensor, offsets: Tensor) -> Tensor:
    """(u, l, E) at offsets (u, k), ascending → (u, k, E)."""
    if offsets.shape[1] and bool((offsets[:, -1] - offsets[:, 0] == offsets.shape[1] - 1).all()):
        # The offsets of each unit are one stretch, usually all of it: no gather is needed.
        first = offsets[:, 0]
        if bool((first == first[0]).all()):
            return hidden[:, int(first[0]) : int(first[0]) + offsets.shape[1]]
    return hidden.gather(1, offsets[..., None].expand(-1, -1, hidden.shape[-1]))
