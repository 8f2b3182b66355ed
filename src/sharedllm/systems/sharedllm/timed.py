"""Timing of SharedLLM: as it is, with its lower layers run whole, and with a question that selects within a budget."""

from torch import Tensor
from transformers import PreTrainedModel

from ...causal_lm import SharedLLMForCausalLM
from ..operations import Operations
from ..timed import Setting, State, TimedSystem
from .operations import kept_tokens, shared_answer, shared_read, shared_select

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

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> SharedLLMForCausalLM:
        joint = {"injection": "joint", "encoding": "chunk"}
        return SharedLLMForCausalLM.from_base(base, window=setting.window, **joint, **setting.reading)

    @property
    def question(self) -> int:
        return min(QUESTION, self.running)

    def read(self, ids: Tensor) -> State:
        return State(self.model.read(ids, batch_tokens=self.setting.batch_tokens, keep_all=True, fingerprint=False))

    def first(self, state: State, running: Tensor) -> Tensor:
        question, budget = running[:, -self.question :], self.setting.budget
        selected = self.model.select(state.memory, question, budget=budget, score="attention")
        state.prepared = self.model.model.prepare_memory(selected, in_place=True)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, kept = self.model.config, min(self.setting.budget, length)
        first, decode = shared_answer(config, kept, self.running, self.block, self.setting.new_tokens, causal)
        select = shared_select(config, length, self.question, causal)
        return Operations(shared_read(config, length, keep_all=True, causal=causal), select + first, decode)
