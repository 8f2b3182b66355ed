"""What is measured beside one another: ways of reading a long text and answering behind it, all over one base.

Each reads a context into a state, takes the running text behind it in one pass, then decodes token by token over a cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from ..causal_lm import SharedLLMForCausalLM
from ..model.cache import with_room
from ..utils.errors import UserError
from . import operations as count
from .causal import causal_sdpa
from .operations import Operations
from .shapes import Shape

DESCRIPTIONS = {
    "sharedllm": "nodes of every chunk read by the bottom M layers, cross-attention over what their strides keep",
    "whole": "the same with all M layers run whole: what the shortcut saves",
    "budget": "everything read and kept, the question selects by attention, a joint softmax over its budget",
    "window": "the base with the window alone: nothing is read",
    "streaming": "the base over everything, with sinks and recent tokens (StreamingLLM)",
    "full": "the base over everything, with all keys and values (SDPA, causal)",
    "beacon": "the context condensed into beacons (Activation Beacon)",
    "cepe": "the context through a small encoder, projected once for cross-attention in every layer (CEPE)",
    "cepe-states": "the same, projected in every pass: less memory",
}
OURS = "sharedllm"
# Tokens at the end of the running text that a budget is spent by.
QUESTION = 64


@dataclass(frozen=True)
class Setting:
    """
    new_tokens    decoded behind the first; where there are none, running text is taken in one pass, without a cache
    batch_tokens  most tokens run at once by what can be run in batches
    running       most tokens of running text; None for as many as the window holds beside the new ones
    """

    shape: Shape
    new_tokens: int
    batch_tokens: int
    running: int | None = None

    @property
    def running_tokens(self) -> int:
        """Those of whoever can take them all."""
        return self.running or self.shape.window - self.new_tokens


@dataclass
class State:
    """memory: what was read. prepared: the memory as passes see it. cache: keys and values of the running text."""

    memory: Any = None
    prepared: Any = None
    cache: Any = None


class Contender:
    """The running text alone; what the others have beyond that is in their classes.

    The context of a length has that many tokens in front of the running text. Who can take less running text than that
    reads the rest of it too.
    """

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
        return Operations(0, *count.full_answer(config, 0, self.running, self.block, new, causal))

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


class Shared(Contender):
    """Asked once, as `generate` does with a context: the memory's keys are rotated where they lie.

    plain: all M layers run whole.
    """

    model: SharedLLMForCausalLM
    plain = False

    def read(self, ids: Tensor) -> State:
        return State(self.model.read(ids, batch_tokens=self.setting.batch_tokens, plain=self.plain, fingerprint=False))

    def first(self, state: State, running: Tensor) -> Tensor:
        state.prepared = self.model.model.prepare_memory(state.memory, in_place=True)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, read = self.model.config, count.shared_read(self.model.config, length, plain=self.plain, causal=causal)
        kept = count.kept_tokens(config, length)
        answer = count.shared_answer(config, kept, self.running, self.block, self.setting.new_tokens, causal)
        return Operations(read, *answer)


class Whole(Shared):
    plain = True


class Budget(Shared):
    """Keeps every token; the end of the running text is the question. Its operations are those of a budget used up."""

    @property
    def question(self) -> int:
        return min(QUESTION, self.running)

    def read(self, ids: Tensor) -> State:
        return State(self.model.read(ids, batch_tokens=self.setting.batch_tokens, keep_all=True, fingerprint=False))

    def first(self, state: State, running: Tensor) -> Tensor:
        question, budget = running[:, -self.question :], self.setting.shape.budget
        selected = self.model.select(state.memory, question, budget=budget, score="attention")
        state.prepared = self.model.model.prepare_memory(selected, in_place=True)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, kept = self.model.config, min(self.setting.shape.budget, length)
        first, decode = count.shared_answer(config, kept, self.running, self.block, self.setting.new_tokens, causal)
        select = count.shared_select(config, length, self.question, causal)
        return Operations(count.shared_read(config, length, keep_all=True, causal=causal), select + first, decode)


class Streaming(Contender):
    """Its cache is both memory and cache."""

    def __init__(self, name: str, model: Any, setting: Setting):
        from ..evaluation.methods.streaming import Streaming as Method

        super().__init__(name, model, setting)
        window = setting.shape.window
        self.method = Method(model, window, block=max(window // 8, 1))

    def read(self, ids: Tensor) -> State:
        return State(cache=self.method.prepare(ids, ids[:, :0]))

    @property
    def block(self) -> int:
        return self.method.block

    def _forward(self, state: State, ids: Tensor) -> Tensor:
        hidden = ids
        for piece in ids.split(self.block, 1):
            hidden, state.cache = self.method._forward(piece, state.cache)
        return self.model.lm_head(hidden[:, -1:])

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, window, block = self.model.config, self.method.window, self.block
        read, kept = count.streaming_read(config, length, window, block, causal=causal)
        answer = count.streaming_answer(config, kept, self.running, window, block, self.setting.new_tokens, causal)
        return Operations(read, *answer)


class Window(Contender):
    """The base, by a kernel that knows what is causal."""

    def _forward(self, state: State, ids: Tensor) -> Tensor:
        with causal_sdpa(self.model):
            return super()._forward(state, ids)


class Full(Window):
    """Prefilled in blocks, so that only keys and values grow with length."""

    @property
    def block(self) -> int:
        # A GPU's kernel knows what is causal behind a cache; a CPU's needs a mask of a block times all that was read.
        return 16_384 if self.model.device.type == "cuda" else 1024

    def read(self, ids: Tensor) -> State:
        cache, decoder = self._cache(ids.shape[1] + self.running), self.model.get_decoder()
        with causal_sdpa(self.model):
            for piece in ids.split(self.block, 1):
                decoder(piece, past_key_values=cache, use_cache=True)
        return State(cache=cache)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config = self.model.config
        answer = count.full_answer(config, length, self.running, self.block, self.setting.new_tokens, causal)
        return Operations(count.full_read(config, length, self.block, causal), *answer)


class Beacon(Contender):
    """The running text is one window of the model, which it reads without condensing it."""

    @property
    def running(self) -> int:
        return min(int(self.model.config.stride) - self.setting.new_tokens, self.setting.running_tokens)

    def read(self, ids: Tensor) -> State:
        total = ids.shape[1] + self.running + self.setting.new_tokens
        return State(self.model.compress(ids, total=total))

    def first(self, state: State, running: Tensor) -> Tensor:
        state.prepared = self.model.prepare_memory(state.memory)
        return self._forward(state, running)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, context, new = self.model.config, self.context(length), self.setting.new_tokens
        read, memory = count.beacon_read(config, context, context + self.running + new, causal)
        return Operations(read, *count.beacon_answer(config, memory, self.running, new, causal))


class Cepe(Contender):
    """project: keys and values of every decoder layer are kept, not only the encoder's states."""

    project = True

    def read(self, ids: Tensor) -> State:
        memory = self.model.read(ids, batch_tokens=self.setting.batch_tokens, project=self.project)
        return State(memory, memory)

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, new = self.model.config, self.setting.new_tokens
        answer = count.cepe_answer(config, length, self.running, self.block, new, self.project, causal)
        return Operations(count.cepe_read(config, length, self.project), *answer)


class CepeStates(Cepe):
    """Its running text is run in one pass, because every pass projects all that was read."""

    project = False

    @property
    def block(self) -> int:
        return self.running


def check_names(names: Sequence[str]) -> None:
    """
    Raises:
        UserError: there is no such contender; lists those that there are.
    """
    unknown = [name for name in names if name not in DESCRIPTIONS]
    if unknown:
        raise UserError(f"--contenders: {unknown[0]!r} is not known: use of {', '.join(DESCRIPTIONS)}.")


def make_contenders(
    names: Sequence[str], setting: Setting, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> dict[str, Contender]:
    """Contenders by name, over one base of random weights that all of them share.

    Raises:
        UserError: there is no such contender; lists those that there are.
    """
    check_names(names)
    shape = setting.shape
    base = shape.build(dtype, device, seed)
    settings = {
        "window": shape.window,
        "chunk_size": shape.chunk_size,
        "strides": shape.strides,
        "lower_layers": shape.lower_layers,
    }
    models: dict[str, PreTrainedModel] = {"base": base}
    with device:
        if {"sharedllm", "whole"} & set(names):
            models["shared"] = SharedLLMForCausalLM.from_base(base, **settings)
        if "budget" in names:
            models["joint"] = SharedLLMForCausalLM.from_base(base, injection="joint", encoding="chunk", **settings)
        if "beacon" in names:
            from ..systems.beacon import BeaconForCausalLM

            models["beacon"] = BeaconForCausalLM.from_base(base, window=shape.window).to(device, dtype)
        if {"cepe", "cepe-states"} & set(names):
            from ..systems.cepe import CepeForCausalLM

            models["cepe"] = CepeForCausalLM.from_base(base, window=shape.window).to(device, dtype)
    makers: dict[str, tuple[type[Contender], str]] = {
        "sharedllm": (Shared, "shared"),
        "whole": (Whole, "shared"),
        "budget": (Budget, "joint"),
        "window": (Window, "base"),
        "streaming": (Streaming, "base"),
        "full": (Full, "base"),
        "beacon": (Beacon, "beacon"),
        "cepe": (Cepe, "cepe"),
        "cepe-states": (CepeStates, "cepe"),
    }
    return {name: makers[name][0](name, models[makers[name][1]].eval(), setting) for name in names}


def held_bytes(value: Any) -> int:
    """Bytes of all tensors in caches, dataclasses and sequences."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Cache):
        return sum(held_bytes([layer.keys, layer.values]) for layer in value.layers)
    if is_dataclass(value):
        return sum(held_bytes(getattr(value, field.name)) for field in fields(value))
    return sum(map(held_bytes, value)) if isinstance(value, list | tuple) else 0
