"""The loss of each row of a batch as one module, so that wrappers for several devices see one forward call."""

import contextlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ..causal_lm import SharedLLMForCausalLM
from ..memory.context_memory import ContextMemory
from ..model.targets import IGNORE


class RowLosses(nn.Module):
    """Forward: batch tensors → mean loss of each row over its labels (B,), and whether all of them are right (B,)."""

    def __init__(self, model: nn.Module):
        """
        Args:
            model: a model that reads contexts into a memory (it has `read`), or one that takes context and running text
                as one sequence; either may be wrapped by adapters.
        """
        super().__init__()
        self.model = model

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
    ) -> tuple[Tensor, Tensor]:
        inputs = {"input_ids": running, "attention_mask": running_mask.long(), "use_cache": False}
        model, has_context = self._unwrapped(), context is not None and context_mask is not None and context_mask.any()
        if has_context and not hasattr(model, "read"):
            ids, mask, labels = _one_sequence(running, running_mask, labels, context, context_mask, shifts or [0])
            inputs |= {"input_ids": ids, "attention_mask": mask.long()}
        elif has_context:
            similarity = getattr(model.config, "selection", "right") != "right"
            asked = (query, query_mask) if similarity else ()
            # Only a SharedLLM has strides that can be overridden, and drops the graph if it is not asked to keep it.
            other: dict[str, Any] = {"gradients": True} if isinstance(model, SharedLLMForCausalLM) else {}
            if strides is not None:
                other["strides"] = strides
            memory = model.read(context, context_mask, *asked, **other, fingerprint=False)
            inputs["memory"] = _with_others(memory, context_mask.any(1), shifts or [0])
            if similarity:
                # The text that chose the context can't be a target.
                labels = labels.clone()
                labels[:, : query.shape[1]] = IGNORE
        logits = self.model(**inputs).logits[:, :-1]
        targets = labels[:, 1:]
        flat = cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="none"
        ).view(targets.shape)
        learnt = targets != IGNORE
        right = ((logits.argmax(-1) == targets) | ~learnt).all(1)
        return flat.sum(1) / learnt.sum(1).clamp(min=1), right

    def _unwrapped(self) -> nn.Module:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model


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
        joined = joined.append(part)
    return replace(joined, mask=joined.mask & has_context[:, None])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bf16 autocast over fp32 weights, or no autocast."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
