"""Whether the context helps, and whether a fact in it is found: measurements over a text that is read once.

Every length is a slice of one memory, so all columns score the same target tokens and nothing is read twice.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..data.synthetic import make_needles
from ..memory.context_memory import ContextMemory
from ..utils.errors import UserError
from ..utils.text import tokenize

Progress = Callable[[int], None]


def target_loss(model: nn.Module, ids: Tensor, **context) -> float:
    """Mean loss, in nats, of the last half of the running text `ids` (1, L)."""
    half = ids.shape[1] // 2
    logits = model(ids, use_cache=False, **context).logits
    return float(cross_entropy(logits[0, half - 1 : -1].float(), ids[0, half:]))


def context_lengths(available: int, window: int, longest: int) -> list[int]:
    """The window, twice the window, … up to `longest` and the available text."""
    lengths, length = [], window
    while length <= min(available, longest):
        lengths.append(length)
        length *= 2
    return lengths


def anchors(tokens: int, longest: int, window: int, chunk_size: int, count: int) -> list[int]:
    """Up to `count` chunk borders, evenly spread, with `longest` tokens before and a window after each of them."""
    first = -(-longest // chunk_size)
    last = (tokens - window) // chunk_size
    if last < first:
        raise UserError(f"the text has {tokens:,} tokens: at least {first * chunk_size + window:,} are needed.")
    count = min(count, last - first + 1)
    return [(first + (last - first) * i // max(1, count - 1)) * chunk_size for i in range(count)]


@dataclass(frozen=True)
class Losses:
    """Mean loss of the same target tokens, in nats.

    base         the base model with the window alone
    none         the extended model with the window alone
    own, other   with the text's own and with another text's context, by length
    wins         share of places where the own context is better than the other's, by length
    targets      number of target tokens
    """

    base: float
    none: float
    own: dict[int, float]
    other: dict[int, float]
    wins: dict[int, float]
    targets: int


@torch.no_grad()
def losses_by_length(
    model: SharedLLMForCausalLM,
    base: nn.Module,
    ids: Tensor,
    own: ContextMemory,
    other: ContextMemory,
    lengths: list[int],
    places: list[int],
    progress: Progress = lambda n: None,
) -> Losses:
    """Loss of the running texts that begin at `places`, with context slices of each length.

    Args:
        ids: (1, T) the text. own: its memory, at least up to the last place. other: another text's memory, equally long.
        lengths: multiples of the chunk size. places: chunk borders, none before the longest length.
    """
    window = model.config.window
    runs = [ids[:, place : place + window] for place in places]
    end = int(other.lengths[0]) // other.chunk_size * other.chunk_size
    ends = [min(place, end) for place in places]
    with_own: dict[int, list[float]] = {n: [] for n in lengths}
    with_other: dict[int, list[float]] = {n: [] for n in lengths}
    for run, place, other_end in zip(runs, places, ends, strict=True):
        for n in lengths:
            with_own[n].append(target_loss(model, run, memory=own.slice(place - n, place)))
            with_other[n].append(target_loss(model, run, memory=other.slice(other_end - n, other_end)))
            progress(1)
    return Losses(
        base=_mean([target_loss(base, run) for run in runs]),
        none=_mean([target_loss(model, run) for run in runs]),
        own={n: _mean(values) for n, values in with_own.items()},
        other={n: _mean(values) for n, values in with_other.items()},
        wins={n: _mean([a < b for a, b in zip(with_own[n], with_other[n], strict=True)]) for n in lengths},
        targets=len(places) * (window - window // 2),
    )


@torch.no_grad()
def needle_recall(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    ids: Tensor,
    memory: ContextMemory,
    lengths: list[int],
    depths: list[float],
    needles: int,
    seed: int = 0,
    budget: int | None = None,
    progress: Progress = lambda n: None,
) -> dict[int, dict[float, float]]:
    """Share of needles whose answer the model gives, by context length and depth (0 the oldest).

    The statement replaces the same number of tokens inside one chunk (more chunks if it is longer), and only that is
    read again. An answer counts if every token is the likeliest one, as in greedy decoding.

    Args:
        memory: of the text. budget: tokens that each question selects from a memory that keeps all; None for all of it.
    """
    chunk_size = model.config.chunk_size
    rng = random.Random(seed)
    result: dict[int, dict[float, float]] = {}
    end = int(memory.lengths[0]) // chunk_size * chunk_size
    for length in lengths:
        context = memory.slice(end - length, end)
        result[length] = {}
        for depth in depths:
            found = []
            for needle in make_needles(rng, needles, "test"):
                statement = tokenize(tokenizer, needle.statement).to(ids.device)
                width = -(-statement.shape[1] // chunk_size) * chunk_size
                start = min(int(depth * length) // chunk_size * chunk_size, length - width)
                hay = ids[:, end - length + start : end - length + start + width].clone()
                at = rng.randrange(width - statement.shape[1] + 1)
                hay[:, at : at + statement.shape[1]] = statement
                spliced = context.slice(0, start).append(model.read(hay, keep_all=budget is not None))
                spliced = spliced.append(context.slice(start + width, length))
                question, answer = (tokenize(tokenizer, t).to(ids.device) for t in (needle.question, needle.answer))
                if budget is not None:
                    spliced = model.select(spliced, question, budget=budget)
                logits = model(torch.cat([question, answer], 1), memory=spliced, use_cache=False).logits
                guess = logits[0, question.shape[1] - 1 : -1].argmax(-1)
                found.append(bool((guess == answer[0]).all()))
            result[length][depth] = _mean(found)
            progress(1)
    return result


def _mean(values: list) -> float:
    return float(sum(values) / len(values))
