"""StreamingLLM (arXiv 2309.17453): the first tokens as attention sinks and the most recent tokens, at their positions
in the cache.

Keys are cached before RoPE; every block of new tokens sees sinks, recent tokens and itself at positions 0, 1, 2, …, so
no position ever exceeds the window. Blocks are scored as they pass, with logits carried across their borders.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..model.attention import attend
from ..model.families import Rotations, family_of, sliding_window
from ..model.rope import rotate
from ..utils.errors import UserError
from .evaluated import Scores, SystemSpec, scores_of
from .operations import Costs, Operations, run
from .timed import Setting, State, TimedSystem

# Keys before RoPE and values (B, G, S, D) of one layer.
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Streaming:
    """window: most tokens in the cache, the new block included. sinks: first tokens that stay. block: tokens at once."""

    model: PreTrainedModel
    window: int
    name: str = "streaming"
    sinks: int = 4
    block: int = 64

    @property
    def running(self) -> int:
        return self.window

    def prepare(self, far: Tensor, query: Tensor) -> list[Pair] | None:
        cache = None
        # Everything has to be read, even tokens that will be dropped: the cache limits what a token sees directly, but
        # deeper layers pass on what was seen before.
        for piece in far.split(self.block, 1) if far.shape[1] else ():
            _, cache = self._forward(piece, cache)
        return cache

    def score(self, state: list[Pair] | None, running: Tensor, targets: int) -> Scores:
        hidden, cache = [], state
        for piece in running.split(self.block, 1):
            states, cache = self._forward(piece, cache)
            hidden.append(states)
        wanted = torch.cat(hidden, 1)[:, -targets - 1 :]
        config = self.model.config
        return scores_of(family_of(config).logits(config, self.model.lm_head(wanted)), running, targets)

    def _forward(self, ids: Tensor, cache: list[Pair] | None) -> tuple[Tensor, list[Pair]]:
        """Final states (B, L, E) of new tokens after a cache, and the cache including them, cut to its size."""
        decoder, config = self.model.get_decoder(), self.model.config
        family, kept = family_of(config), 0 if cache is None else cache[0][0].shape[2]
        hidden = family.embed(config, decoder.embed_tokens(ids))
        places = torch.arange(kept + ids.shape[1], device=ids.device)
        queries_by = Rotations(decoder.rotary_emb, config, places[None, kept:], hidden)
        keys_by = Rotations(decoder.rotary_emb, config, places[None], hidden)
        distance = places[kept:, None] - places
        later: list[Pair] = []
        for index, layer in enumerate(decoder.layers):
            attention, normed = getattr(layer, family.attention), family.attention_input(layer, hidden)
            keys, values = (t.transpose(1, 2) for t in family.keys_values(attention, normed))
            if cache is not None:
                keys, values = (torch.cat(pair, 2) for pair in zip(cache[index], (keys, values), strict=True))
            queries = family.queries(attention, normed).transpose(1, 2)
            reach = sliding_window(config, index)
            allowed = (distance >= 0) if reach is None else (distance >= 0) & (distance < reach)
            attended = attend(
                attention,
                config._attn_implementation,
                rotate(queries, queries_by.queries(index, attention)),
                rotate(keys, keys_by.keys(index, attention)),
                values,
                allowed[None, None],
            )
            hidden = family.combine(layer, hidden, getattr(attention, family.output)(attended))
            later.append((self._cut(keys), self._cut(values)))
        return decoder.norm(hidden), later

    def _cut(self, heads: Tensor) -> Tensor:
        """Keep the sinks and the most recent tokens, leaving space for the next block."""
        room = self.window - self.block
        if heads.shape[2] <= room:
            return heads
        return torch.cat([heads[:, :, : self.sinks], heads[:, :, self.sinks - room :]], 2)


def streaming(spec: SystemSpec) -> Streaming:
    """
    Raises:
        UserError: the window has no room for the sinks beside a block.
    """
    made = Streaming(spec.model, spec.window, block=min(Streaming.block, max(spec.window // 8, 1)))
    if made.window - made.block <= made.sinks:
        raise UserError(
            f"{spec.name} keeps {made.sinks} first tokens and reads {made.block} at once: a window of {made.window} is too small."
        )
    return made


class TimedStreaming(TimedSystem):
    """Its cache serves as the memory too."""

    def __init__(self, name: str, model: Any, setting: Setting):
        super().__init__(name, model, setting)
        window = setting.window
        self.streaming = Streaming(model, window, block=max(window // 8, 1))

    def read(self, ids: Tensor) -> State:
        return State(cache=self.streaming.prepare(ids, ids[:, :0]))

    @property
    def block(self) -> int:
        return self.streaming.block

    def _forward(self, state: State, ids: Tensor) -> Tensor:
        hidden = ids
        for piece in ids.split(self.block, 1):
            hidden, state.cache = self.streaming._forward(piece, state.cache)
        return self.model.lm_head(hidden[:, -1:])

    def operations(self, length: int, causal: bool = False) -> Operations:
        config, window, block = self.model.config, self.streaming.window, self.block
        read, kept = streaming_read(config, length, window, block, causal=causal)
        answer = streaming_answer(config, kept, self.running, window, block, self.setting.new_tokens, causal)
        return Operations(read, *answer)


def streaming_read(
    config: PreTrainedConfig, length: int, window: int, block: int, kept: int = 0, causal: bool = False
) -> tuple[int, int]:
    """Blocks of tokens over the cache, which holds `kept` tokens at the beginning; also the number of tokens it holds
    at the end."""
    costs, total = Costs.of(config), 0
    for start in range(0, length, block):
        new = min(block, length - start)
        total += run(costs, new, kept, causal)
        kept = min(kept + new, window - block)
    return total, kept


def streaming_answer(
    config: PreTrainedConfig, kept: int, running: int, window: int, block: int, new_tokens: int, causal: bool = False
) -> tuple[int, int]:
    costs = Costs.of(config)
    first, kept = streaming_read(config, running, window, block, kept, causal)
    steps = sum(run(costs, 1, min(kept + step, window - block)) for step in range(new_tokens))
    return first + costs.head, steps + new_tokens * costs.head
