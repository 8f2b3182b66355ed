"""Reading deeper as slow loops over one text: the reference for tests of `model.deepen`.

This is not in the paper. It is self-injection (arXiv 2603.04759, overview of the model) in which all upper layers read
the selected tokens. Letters as in `reference`; p tokens of prefix, s selected tokens, N layers.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from .causal_lm import SharedLLMForCausalLM
from .model.config import SharedLLMConfig
from .reference import _heads, _ids, _rotate, _run, _self_attention


def reference_deep_logits(
    model: SharedLLMForCausalLM, input_ids: list[int], context_ids: list[int], selected: list[int]
) -> Tensor:
    """Logits of running text over the selected tokens of a context, which are read deeper.

    Args:
        input_ids: L tokens of running text. context_ids: T tokens before it.
        selected: s ascending positions in the context.

    Returns:
        (L, V) logits.
    """
    config, upper = model.config, model.model.upper
    prefix = list(config.prefix or [])
    kept_layers = {index for index, _ in config.injection_map}
    # 1. Every chunk, or each piece of it, is read by itself, after the prefix, through the bottom M layers.
    states: dict[int, list[Tensor]] = {}
    for start, end in _alone(config, context_ids):
        first = _begun(config, context_ids[start])
        read = _run(model, upper.layers, [*prefix, first, *context_ids[start + 1 : end]], config.lower_layers)
        for offset in range(end - start):
            states[start + offset] = [state[len(prefix) + offset] for state in read]
    none = upper.embed_tokens.weight.new_zeros(0, upper.config.hidden_size)
    # 2. The prefix and the selected tokens are concatenated.
    beginning = _run(model, upper.layers, prefix, config.lower_layers) if prefix else [none] * (config.lower_layers + 1)
    far: list[tuple[Tensor, Tensor] | None] = []
    for index in range(config.lower_layers):
        rows = [*beginning[index], *(states[p][index] for p in selected if index in kept_layers)]
        far.append(_keys_values(model, index, torch.stack(rows)) if rows else None)
    # 3. The layers above read them together.
    hidden = torch.cat([beginning[-1], *(states[p][config.lower_layers][None] for p in selected)])
    for index in range(config.lower_layers, len(upper.layers)):
        far.append(_keys_values(model, index, hidden) if len(hidden) else None)
        hidden = _layer(model, index, hidden) if len(hidden) else hidden
    # 4. The running text sees them in all layers, and continues at the next position.
    running = upper.embed_tokens(_ids(model, input_ids))
    for index, seen in enumerate(far):
        running = _layer(model, index, running, seen, len(prefix) + len(selected))
    return model.lm_head(upper.norm(running))


def _begun(config: SharedLLMConfig, token: int) -> int:
    """The token with which a piece begins in place of another one: without its space."""
    pairs = [pair.split(":") for pair in (config.bare or "").split()]
    return next((int(bare) for spaced, bare in pairs if int(spaced) == token), token)


def _alone(config: SharedLLMConfig, ids: list[int]) -> list[tuple[int, int]]:
    """Where each stretch of a text that is read by itself begins and ends: chunks, or with `closing` their pieces."""
    chunks = [(start, min(start + config.chunk_size, len(ids))) for start in range(0, len(ids), config.chunk_size)]
    if not config.closing:
        return chunks
    found, least = [], max(1, min(96, config.window // 8))
    for begin, end in chunks:
        # What ends with each token of the chunk. Two line breaks in a row are a blank line, so a paragraph ends.
        breaks = [token in (config.breaking or ()) for token in ids[begin:end]]
        twice = [both == (True, True) for both in itertools.pairwise([False, *breaks])]
        parts = [two or token in (config.parting or ()) for two, token in zip(twice, ids[begin:end], strict=True)]
        closes = [_closes(config, ids[begin:end], slot) for slot in range(end - begin)]
        pauses = [token in (config.pausing or ()) for token in ids[begin:end]]
        signs = [token in (config.heading or ()) for token in ids[begin:end]]
        for start, stop in _sections(parts, closes, breaks, signs, max(1, least // 4)):
            found += [(begin + a, begin + b) for a, b in _cut(start, stop, least, (parts, closes, pauses))]
    return found


def _closes(config: SharedLLMConfig, ids: list[int], slot: int) -> bool:
    """Whether a sentence ends with a token, as none does with a full stop right before a digit."""
    closing, numeric = config.closing or (), config.numeric or ()
    before_digit = any(token in numeric and token not in closing for token in ids[slot + 1 : slot + 2])
    return ids[slot] in closing and not (before_digit and ids[slot] in numeric)


def _cut(start: int, end: int, least: int, kinds: tuple[list[bool], ...]) -> list[tuple[int, int]]:
    """A section in pieces: of at least so many tokens, at most twice as many, up to the end of a paragraph, else of a sentence,
    else of a clause."""
    own: list[tuple[int, int]] = []
    while start < end:
        longest = min(start + 2 * least, end)
        stops = [stop for kind in kinds for stop in range(start + least, longest + 1) if kind[stop - 1]]
        stop = next(iter(stops), longest)
        if own and stop == end and end - own[-1][0] <= 2 * least:
            own[-1] = own[-1][0], end
        else:
            own.append((start, stop))
        start = stop
    return own


def _sections(
    parts: list[bool], closes: list[bool], breaks: list[bool], signs: list[bool], shortest: int
) -> list[tuple[int, int]]:
    """A chunk, cut before its headings into sections that are not too short."""
    first = [slot for slot in range(1, len(parts)) if parts[slot - 1]]
    headings = [slot for slot in first if signs[slot] or _title(slot, parts, closes, breaks)]
    bare = {slot for slot in headings if _one_line(slot, parts, breaks)}
    borders = [0]
    for above, slot, below in zip([0, *first], first, [*first[1:], 0], strict=False):
        between = {above, slot} <= bare and below in headings
        if slot in headings and not between and min(slot - borders[-1], len(parts) - slot) >= shortest:
            borders.append(slot)
    return list(itertools.pairwise([*borders, len(parts)]))


def _one_line(slot: int, parts: list[bool], breaks: list[bool]) -> bool:
    """Whether the paragraph that begins at a slot has one line."""
    end = next((n for n in range(slot, len(parts)) if parts[n] or breaks[n]), len(parts) - 1)
    return parts[end] or (breaks[end] and end + 1 < len(parts) and breaks[end + 1])


def _title(slot: int, parts: list[bool], closes: list[bool], breaks: list[bool]) -> bool:
    """Whether a short line that ends no sentence begins at a slot, right above a much longer one."""
    end = next((n for n in range(slot, len(parts)) if breaks[n]), None)
    if end is None or not 1 <= end - slot < 16 or parts[end] or closes[end - 1]:
        return False
    after = next((n for n in range(end + 1, len(parts)) if parts[n] or breaks[n]), len(parts) - 1)
    return after - end >= 3 * (end + 1 - slot)


def _keys_values(model: SharedLLMForCausalLM, index: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, rotated to positions 0, 1, …, and values (S, G, D) of streams (S, E) entering a layer."""
    layer: Any = model.model.upper.layers[index]
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    keys = _heads(attention.k_proj(normed), attention.head_dim, getattr(attention, "k_norm", None))
    return _rotate(model, keys, list(range(len(keys)))), _heads(attention.v_proj(normed), attention.head_dim)


def _layer(
    model: SharedLLMForCausalLM,
    index: int,
    hidden: Tensor,
    seen: tuple[Tensor, Tensor] | None = None,
    start: int = 0,
) -> Tensor:
    """One decoder layer over (L, E); seen: keys and values before it."""
    layer: Any = model.model.upper.layers[index]
    far = None if seen is None else (*seen, 0.0)
    hidden = hidden + _self_attention(model, layer, index, hidden, far, start)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
