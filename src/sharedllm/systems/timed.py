"""The face of a system that the benchmark sees: it reads a context into a state, takes the running text after it in one pass,
then decodes token by token over a cache. It counts its operations too."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel

from ..model.cache import with_room
from . import SYSTEMS
from .operations import Operations, full_answer


@dataclass(frozen=True)
class Setting:
    """What all systems are timed with.

    window        W, most tokens of running text
    budget        tokens that a question selects, for SharedLLM with a budget
    reading       how a SharedLLM reads: `chunk_size`, `lower_layers`, the tree's strides
    new_tokens    decoded after the first; where there are none, running text is taken in one pass, without a cache
    batch_tokens  most tokens run at once by what can be run in batches
    running       most tokens of running text; None for as many as the window holds beside the new ones
    """

    window: int
    budget: int
    reading: dict[str, Any]
    new_tokens: int
    batch_tokens: int
    running: int | None = None

    @property
    def running_tokens(self) -> int:
        """Those of whoever can take them all."""
        return self.running or self.window - self.new_tokens


@dataclass
class State:
    """memory: what was read. prepared: the memory as passes see it. cache: keys and values of the running text."""

    memory: Any = None
    prepared: Any = None
    cache: Any = None


class TimedSystem:
    """The running text alone; what the others have beyond that is in their classes.

    The context of a length has that many tokens in front of the running text. Who can take less running text than that
    reads the rest of it too.
    """

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model to be timed, over a base; systems that have this method in common share the model."""
        return base

    def __init__(self, name: str, model: Any, setting: Setting):
        self.name, self.model, self.setting = name, model, setting

    @property
    def running(self) -> int:
        """Tokens of running text; those to be decoded have room behind them."""
        return self.setting.running_tokens

    @property
    def block(self) -> int:
        """Most tokens run at once."""
        return self.setting.batch_tokens if self.setting.new_tokens else self.running

    def context(self, length: int) -> int:
        """Tokens to read of a text with `length` tokens in front of its running text."""
        return length + self.setting.running_tokens - self.running

    def read(self, ids: Tensor) -> State:
        """Read a context (1, T)."""
        return State()

    def first(self, state: State, running: Tensor) -> Tensor:
        """Logits (1, 1, V) behind the running text (1, L)."""
        return self._forward(state, running)

    def step(self, state: State, token: Tensor) -> Tensor:
        """Logits (1, 1, V) behind one more token (1, 1)."""
        return self._forward(state, token)

    def memory_bytes(self, state: State) -> int:
        """What is kept of a context until it is asked for."""
        return held_bytes(state.memory) + held_bytes(state.cache)

    def operations(self, length: int, causal: bool = False) -> Operations:
        """By formula, for a text with `length` tokens in front of its running text."""
        new, config = self.setting.new_tokens, self.model.config
        return Operations(0, *full_answer(config, 0, self.running, self.block, new, causal))

    def _forward(self, state: State, ids: Tensor) -> Tensor:
        memory = {} if state.prepared is None else {"memory": state.prepared}
        if state.cache is None and self.setting.new_tokens:
            state.cache = self._cache(self.running)
        logits, kept = ids.new_empty(0), state.cache is not None
        for piece in ids.split(self.block, 1):
            out = self.model(piece, past_key_values=state.cache, use_cache=kept, logits_to_keep=1, **memory)
            state.cache, logits = out.past_key_values, out.logits
        return logits

    def _cache(self, tokens: int) -> Cache:
        """Of so many tokens and the new ones. None is copied for the next one, which transformers' own would do."""
        return with_room(None, self.model.get_decoder().config, tokens + self.setting.new_tokens)


def timed_names() -> list[str]:
    """Systems that can be timed."""
    return [name for name, system in SYSTEMS.items() if system.timed]


def held_bytes(value: Any) -> int:
    """Bytes of all tensors in caches, dataclasses and sequences."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Cache):
        return sum(held_bytes([layer.keys, layer.values]) for layer in value.layers)
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, field.name)) for field in fields(value))
    return sum(map(held_bytes, value)) if isinstance(value, list | tuple) else 0
