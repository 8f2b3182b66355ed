"""The loss of each row of a batch as one module, so that wrappers for several devices see one forward call."""

import contextlib
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..model.targets import IGNORE
from ..model.token_losses import token_losses
from .heads import head_is_frozen, states_and_head
from .recipe import Distil
from .teacher import teacher_of


class RowResults(NamedTuple):
    """Of B rows.

    loss        (B,) mean over the row's labels, in nats
    right       (B,) bool: the likeliest token is right at all of them
    divergence  (B,) mean over the labels of the divergence from the base; 0 without distillation
    """

    loss: Tensor
    right: Tensor
    divergence: Tensor


class RowLosses(nn.Module):
    """Forward: batch tensors → `RowResults`."""

    def __init__(self, model: nn.Module, distil: Distil | None = None, empty: bool = False):
        """
        Args:
            model: a model that reads contexts into a memory (it has `read`), or one that takes context and running text
                as one sequence; either may be wrapped by adapters.
            distil: compare with the base in training mode. empty: read no context, for a control.
        """
        super().__init__()
        self.model, self.distil, self.empty = model, distil, empty

    def forward(
        self,
        running: Tensor,
        running_mask: Tensor,
        labels: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        query: Tensor | None = None,
        query_mask: Tensor | None = None,
        shifts: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> RowResults:
        inputs = {"input_ids": running, "attention_mask": running_mask.long(), "use_cache": False}
        model, has_context = self._unwrapped(), context is not None and context_mask is not None and context_mask.any()
        ids, mask, whole_labels = running, running_mask, labels
        if has_context and (self.distil is not None or not hasattr(model, "read")):
            ids, mask, whole_labels = _one_sequence(running, running_mask, labels, context, context_mask, shifts or [0])
        if has_context and not hasattr(model, "read"):
            if not self.empty:
                inputs |= {"input_ids": ids, "attention_mask": mask.long()}
                labels, running_mask = whole_labels, mask
        elif has_context:
            similarity = getattr(model.config, "selection", "right") != "right"
            asked = (query, query_mask) if similarity else ()
            # Only a SharedLLM has strides that can be overridden, and drops the graph if it is not asked to keep it.
            other: dict[str, Any] = {"gradients": True} if isinstance(model, SharedLLMForCausalLM) else {}
            if strides is not None:
                other["strides"] = strides
            if not self.empty:
                memory = model.read(context, context_mask, *asked, **other, fingerprint=False)
                inputs["memory"] = _with_others(memory, context_mask.any(1), shifts or [0])
            if similarity:
                assert query_mask is not None, "a policy by similarity needs a query"
                labels = labels.masked_fill(_beginning(running_mask, query_mask.sum(1)), IGNORE)
        targets = labels[:, 1:]
        # Padding predicts nothing.
        learnt = (targets != IGNORE) & running_mask[:, :-1]
        teacher = None
        if self.distil is not None and self.training:
            # Both texts end alike, so the running text's columns are the last ones of either.
            teacher = teacher_of(self.model, model, ids, mask, learnt, self.distil.temperature)
        states, head = states_and_head(self.model, model, **inputs)
        # Only tokens with a label go through the head.
        frozen = head_is_frozen(model)
        tokens = token_losses(head, states[:, :-1][learnt], targets[learnt], teacher, frozen=frozen)
        counts = learnt.sum(1).clamp(min=1)
        wrong = torch.zeros_like(learnt).masked_scatter(learnt, ~tokens.right)
        means = [_placed(values, learnt).sum(1) / counts for values in (tokens.loss, tokens.divergence)]
        return RowResults(means[0], ~wrong.any(1), means[1])

    def _unwrapped(self) -> nn.Module:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model


def _beginning(mask: Tensor, lengths: Tensor) -> Tensor:
    """(B, L) bool: the first tokens of each row, as many as its query has. The text that chose the context can't be a target."""
    place = mask.cumsum(1)
    return mask & (place <= lengths[:, None])


def _placed(values: Tensor, where: Tensor) -> Tensor:
    """Values (n,) at the n true places of `where` (B, L), 0 elsewhere."""
    return values.new_zeros(where.shape).masked_scatter(where, values)


def _one_sequence(
    running: Tensor, running_mask: Tensor, labels: Tensor, context: Tensor, context_mask: Tensor, shifts: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Context and running text of each row as one sequence, padded on the left: ids, mask and labels.

    If the whole running text has labels, so has the context, because these models compute its logits anyway.
    """
    whole = ((labels == running) | ~running_mask).all(1)
    has_context = context_mask.any(1)
    parts = []
    for shift in shifts:
        ids, mask = context.roll(-shift, 0), context_mask.roll(-shift, 0) & has_context[:, None]
        parts.append((ids, mask, ids.masked_fill(~(mask & whole[:, None]), IGNORE)))
    parts.append((running, running_mask, labels.clone()))
    for _, mask, targets in parts:
        # Before a part's first token is another text or nothing, so it has no label.
        targets.masked_fill_(mask & ~pad(mask[:, :-1], (1, 0)), IGNORE)
    ids, mask, targets = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
    order = mask.to(torch.int8).argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order), targets.gather(1, order)


def _with_others(own: ContextMemory, has_context: Tensor, shifts: list[int]) -> ContextMemory:
    """Each row's context joined with those of other rows; rows without a context keep none."""
    if shifts == [0]:
        return own
    batch = len(own)
    parts = [own.index_select([(row + shift) % batch for row in range(batch)]) for shift in shifts]
    joined = parts[0]
    for part in parts[1:]:
        joined = _to_chunk_border(joined).append(part)
    return replace(joined, mask=joined.mask & has_context[:, None])


def _to_chunk_border(memory: ContextMemory) -> ContextMemory:
    """Texts of whole chunks: an unfinished last chunk is counted whole, with empty slots at its end, as between a store's documents."""
    lengths = memory.chunks * memory.chunk_size
    missing = int(lengths.max()) - memory.token_ids.shape[1]
    return replace(memory, lengths=lengths, token_ids=pad(memory.token_ids, (0, max(0, missing))))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bf16 autocast over fp32 weights, or no autocast."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
