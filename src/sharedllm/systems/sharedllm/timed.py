"""Timing of SharedLLM: as it is, with its lower layers run whole, with a question that selects within a budget by attention
or by words, and with selected pieces that are read deeper."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...causal_lm import SharedLLMForCausalLM
from ...context.pieces import Pieces, choose_pieces, piece_size
from ...memory.segments import segments_of, take
from ...scoring.heads import HeadIndex
from ..operations import Operations
from ..timed import Setting, State, TimedSystem
from .operations import deep_answer, deep_select, kept_tokens, shared_answer, shared_read, shared_select

# Number of last tokens of the running text that serve as the question for a budget.
QUESTION = 64


class TimedShared(TimedSystem):
    """Asked once, as `generate` does with a context: the memory's keys are rotated in place.

    plain: all M layers run whole.
    """

    model: SharedLLMForCausalLM
    plain = False

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> SharedLLMForCausalLM:
        return SharedLLMForCausalLM.from_base(base, window=setting.window, **setting.reading)

    def read(self, ids: Tensor) -> State:
        return State(self.model.read(ids, batch_tokens=self.setting.batch_tokens, plain=self.plain, fingerprint=False))

    def first(self, state: State, running: Tensor) -> Tensor:
        state.prepared = self.model.model.prepare_memory(state.memory, in_place=True)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, read = self.model.config, shared_read(self.model.config, length, plain=self.plain, causal=causal)
        kept = kept_tokens(config, length)
        answer = shared_answer(config, kept, self.running, self.block, self.setting.new_tokens, causal)
        return Operations(read, *answer)


class TimedWhole(TimedShared):
    plain = True


class TimedBudget(TimedShared):
    """Keeps every token; the end of the running text is the question. Its operations assume that the budget is used up."""

    score = "attention"

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> SharedLLMForCausalLM:
        reading = setting.reading | {"injection": "joint", "encoding": "chunk"}
        return SharedLLMForCausalLM.from_base(base, window=setting.window, **reading)

    @property
    def question(self) -> int:
        return min(QUESTION, self.running)

    def read(self, ids: Tensor) -> State:
        return State(self.model.read(ids, batch_tokens=self.setting.batch_tokens, keep_all=True, fingerprint=False))

    def first(self, state: State, running: Tensor) -> Tensor:
        question, budget = running[:, -self.question :], self.setting.budget
        selected = self.model.select(state.memory, question, budget=budget, score=self.score)
        state.prepared = self.model.model.prepare_memory(selected, in_place=True)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, kept = self.model.config, min(self.setting.budget, length)
        first, decode = shared_answer(config, kept, self.running, self.block, self.setting.new_tokens, causal)
        select = shared_select(config, length, self.question, causal) if self.score == "attention" else 0
        return Operations(shared_read(config, length, keep_all=True, causal=causal), select + first, decode)


class TimedFocus(TimedBudget):
    """Selects by words, which costs no products of matrices."""

    score = "focus"


@dataclass
class DeepState(State):
    """index: the keys of the heads that select, by piece."""

    index: HeadIndex | None = None


class TimedDeep(TimedBudget):
    """Read through the bottom layers once; what a question selects is read through the others then.

    Pieces have a fixed size, because random tokens have no sentences, and one head of layer M selects them. Real models
    also rank by words, which costs no operations.
    """

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> SharedLLMForCausalLM:
        layers = setting.reading["lower_layers"]
        pairs = [[i, i] for i in range(layers + 1)]
        deep = {"injection": "deep", "encoding": "chunk", "overlap": 0, "injection_map": pairs}
        reading = setting.reading | deep | {"selection_heads": [[layers, 0, 1.0]]}
        return SharedLLMForCausalLM.from_base(base, window=setting.window, **reading)

    def read(self, ids: Tensor) -> DeepState:
        memory = super().read(ids).memory
        size = min(piece_size(self.setting.window), self.setting.budget)
        starts = torch.arange(0, ids.shape[1], size)
        pieces = Pieces(starts, (starts + size).clamp(max=ids.shape[1]))
        heads = self.model.config.selection_heads or ()
        return DeepState(memory, index=HeadIndex(self.model.model, segments_of(memory), pieces, heads))

    def memory_bytes(self, state: DeepState) -> int:
        index = state.index
        assert index is not None
        return super().memory_bytes(state) + index.nbytes

    def first(self, state: DeepState, running: Tensor) -> Tensor:
        question, index = running[:, -self.question :], state.index
        assert index is not None
        scores = index.scores(question, torch.ones_like(question, dtype=torch.bool))
        slots = index.pieces[choose_pieces(scores, index.pieces, self.setting.budget)].slots()
        selected = take(segments_of(state.memory), [slots], [torch.ones_like(slots)])
        state.prepared = self.model.model.prepare_memory(selected)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, kept, new = self.model.config, min(self.setting.budget, length), self.setting.new_tokens
        first = deep_answer(config, kept, self.running, 0, causal)
        # `deep_answer` has the tokens after the first one too.
        decode = deep_answer(config, kept, self.running, new, causal) - first
        read = shared_read(config, length, keep_all=True, causal=causal)
        return Operations(read, deep_select(config, length, self.question, causal) + first, decode)
