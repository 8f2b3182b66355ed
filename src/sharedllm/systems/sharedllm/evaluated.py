"""SharedLLM: the far context is read into a memory that the running text attends to; and the control without a memory."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...causal_lm import SharedLLMForCausalLM
from ...memory.context_memory import ContextMemory
from ...memory.int8 import dequantised, quantised
from ...model.cross_attention import PreparedMemory
from ...scoring import SCORES
from ..evaluated import Scores, SystemSpec, scores_of


@dataclass(frozen=True)
class Shared:
    """selection: a policy's name, strides: of the levels; None for the model's own. batch_tokens: most tokens read at once.

    rounded: use 8-bit keys and values, as with storage "int8" and `memory_dtype` "int8".
    """

    model: SharedLLMForCausalLM
    name: str = "sharedllm"
    selection: str | None = None
    strides: tuple[int, ...] | None = None
    batch_tokens: int | None = None
    rounded: bool = False

    @property
    def running(self) -> int:
        return self.model.config.window

    @torch.no_grad()
    def prepare(self, far: Tensor, query: Tensor) -> ContextMemory | PreparedMemory | None:
        if far.shape[1] == 0:
            return None
        memory = self.model.read(
            far,
            query_ids=query,
            selection=self.selection,
            strides=self.strides,
            batch_tokens=self.batch_tokens,
            fingerprint=False,
        )
        if not self.rounded:
            return memory
        keys, values = (
            tuple(dequantised(*quantised(t), t.dtype) for t in tensors) for tensors in (memory.keys, memory.values)
        )
        return self.model.model.prepare_memory(replace(memory, keys=keys, values=values), memory_dtype="int8")

    def score(self, state: ContextMemory | PreparedMemory | None, running: Tensor, targets: int) -> Scores:
        logits = self.model(running, memory=state, logits_to_keep=targets + 1, use_cache=False).logits
        return scores_of(logits, running, targets)


@dataclass(frozen=True)
class Empty:
    """The trained model without a memory: shows the effect of the extra training alone."""

    model: SharedLLMForCausalLM
    name: str = "empty"

    @property
    def running(self) -> int:
        return self.model.config.window

    def prepare(self, far: Tensor, query: Tensor) -> None:
        return None

    def score(self, state: None, running: Tensor, targets: int) -> Scores:
        return Shared(self.model).score(None, running, targets)


@dataclass(frozen=True)
class Budgeted:
    """Everything is read and kept; the question decides which tokens the running text sees.

    ranking: name of a token score. budget: most tokens seen.
    """

    model: SharedLLMForCausalLM
    name: str
    ranking: str
    budget: int
    batch_tokens: int | None = None

    @property
    def running(self) -> int:
        return self.model.config.window

    def prepare(self, far: Tensor, query: Tensor) -> ContextMemory | None:
        if far.shape[1] == 0:
            return None
        memory = self.model.read(far, keep_all=True, batch_tokens=self.batch_tokens, fingerprint=False)
        return self.model.select(memory, query, budget=self.budget, score=self.ranking)

    def score(self, state: ContextMemory | None, running: Tensor, targets: int) -> Scores:
        return Shared(self.model).score(state, running, targets)


def shared(spec: SystemSpec) -> Shared:
    return Shared(spec.model, spec.name, spec.variant, spec.numbers)


def int8(spec: SystemSpec) -> Shared:
    return Shared(spec.model, spec.name, rounded=True)


def empty(spec: SystemSpec) -> Empty:
    return Empty(spec.model)


def budget(spec: SystemSpec) -> Budgeted:
    if spec.variant not in SCORES or spec.numbers is None or len(spec.numbers) != 1:
        raise spec.unknown()
    return Budgeted(spec.model, spec.name, spec.variant, spec.numbers[0])
