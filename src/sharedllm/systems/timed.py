"""The interface of a system for the benchmark: it reads a context into a state, runs the running text after it in one
pass, then decodes token by token over a cache. It also counts its operations."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel

from ..model.cache import with_room
from . import SYSTEMS
from .operations import Operations, full_answer


@dataclass(frozen=True)
class Setting:
    """The settings with which all systems are timed.

    window        W, most tokens of running text
    budget        tokens that a question selects, for SharedLLM with a budget
    reading       how a SharedLLM reads: `chunk_size`, `lower_layers`, the tree's strides
    new_tokens    number of tokens decoded after the first; if 0, the running text is one pass without a cache
    batch_tokens  most tokens run at once by systems that run batches
    running       most tokens of running text; None for the window minus the new tokens
    """

    window: int
    budget: int
    reading: dict[str, Any]
    new_tokens: int
    batch_tokens: int
    running: int | None = None

    @property
    def running_tokens(self) -> int:
        """Tokens of running text for systems that can take them all."""
        return self.running or self.window - self.new_tokens


@dataclass
class State:
    """memory: the memory of the context. prepared: the memory with positions. cache: keys and values of the running text."""

    memory: Any = None
    prepared: Any = None
    cache: Any = None


class TimedSystem:
    """Runs the running text alone; subclasses add everything else.

    A context of some length has that many tokens before the running text. A system that takes less running text reads
    the rest of it as context too.
    """

    @staticmethod
    def extend(base: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """The model to time, over a base; systems that share this method share the model."""
        return base

    def __init__(self, name: str, model: Any, setting: Setting):
        self.name, self.model, self.setting = name, model, setting

    @property
    def running(self) -> int:
        """Tokens of running text, so many that the new tokens fit after them."""
        return self.setting.running_tokens

    @property
    def block(self) -> int:
        """Most tokens run at once."""
        return self.setting.batch_tokens if self.setting.new_tokens else self.running

    def context(self, length: int) -> int:
        """Tokens to read of a text with `length` tokens before its running text."""
        return length + self.setting.running_tokens - self.running

    def read(self, ids: Tensor) -> State:
        """Read a context (1, T)."""
        return State()

    def first(self, state: State, running: Tensor) -> Tensor:
        """Logits (1, 1, V) after the running text (1, L)."""
        return self._forward(state, running)

    def step(self, state: State, token: Tensor) -> Tensor:
        """Logits (1, 1, V) after one more token (1, 1)."""
        return self._forward(state, token)

    def memory_bytes(self, state: State) -> int:
        """Bytes kept of a context until a question comes."""
        return held_bytes(state.memory) + held_bytes(state.cache)

    def operations(self, length: int, causal: bool = False) -> Operations:
        """Operations by formula, for a text with `length` tokens before its running text."""
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
        """A cache for so many tokens plus the new ones. Unlike transformers' own, it copies nothing for a new token."""
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
