"""The loss of each row of a batch, as one module, so that wrappers for many devices see one forward call."""

import contextlib
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.rows import IGNORE
from ..memory import ContextMemory


class RowLosses(nn.Module):
    """Forward: batch tensors → mean loss of each row over its labels (B,), and whether all of them are right (B,)."""

    def __init__(self, model: nn.Module):
        """
        Args:
            model: a SharedLLM, an ordinary causal language model, or either with adapters around it.
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
    ) -> tuple[Tensor, Tensor]:
        inputs = {"input_ids": running, "attention_mask": running_mask.long(), "use_cache": False}
        if context is not None and context_mask is not None and context_mask.any():
            model = self._shared()
            similarity = model.config.selection != "right"
            memory = model.read(context, context_mask, *((query, query_mask) if similarity else ()), fingerprint=False)
            inputs["memory"] = _with_others(memory, context_mask.any(1), shifts or [0])
            if similarity:
                # What chose the context can't be a target.
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

    def _shared(self) -> nn.Module:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model


def _with_others(own: ContextMemory, has_context: Tensor, shifts: list[int]) -> ContextMemory:
    """Each row's context among those of other rows, as many chunks as that gives; rows without a context keep none."""
    if shifts == [0]:
        return own
    batch = len(own)
    parts = [own.index_select([(row + shift) % batch for row in range(batch)]) for shift in shifts]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.append(part)
    return replace(joined, mask=joined.mask & has_context[:, None])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bf16 products over fp32 weights, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
