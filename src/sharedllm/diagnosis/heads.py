"""Which heads find what a question asks for: their attention should decide how a budget is spent.

Facts are hidden in a text and asked for one by one. A head's rank for a question is the number of tokens outside the
fact that it attends to more than to any token of the fact. Most heads do something else, but a few find the fact each
time.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..data.questions.base import hide, render
from ..data.questions.needle import Needle
from ..memory.segments import segments_of
from ..scoring.attention import AttentionScore
from ..utils.errors import UserError


@dataclass(frozen=True)
class Head:
    """layer: upper layer. score: mean of 1 / (1 + rank) over the questions. worst: the highest rank."""

    layer: int
    head: int
    score: float
    worst: int


def measure_heads(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    text: torch.Tensor,
    *,
    questions: int = 32,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Head]:
    """All heads of the injected layers, best first.

    Args:
        text: (T,) ids of the text in which facts are hidden; longer texts contain more distractors.
        questions: number of hidden facts, each with its own question, from the training split.
        progress: called after each question with 1.

    Raises:
        UserError: the text is too short for the facts, or the model has no joint softmax.
    """
    if model.config.injection != "joint":
        fix = "extend the base with `sharedllm extend --injection joint`"
        if model.config.injection == "deep":
            fix = "`sharedllm extend` has measured this model's heads already; with `--data` for another text"
        raise UserError(f"injection={model.config.injection!r}: heads are calibrated for injection='joint': {fix}.")
    rng, quizzes, asked = random.Random(seed), [], set()
    while len(quizzes) < questions:
        quiz = Needle().make(rng, "", "train")
        if quiz.question not in asked:
            asked.add(quiz.question)
            quizzes.append(quiz)
    facts = [np.asarray(_ids(tokenizer, quiz.facts[0])) for quiz in quizzes]
    whole = hide(rng, text.numpy(), facts, len(text))
    with torch.no_grad():
        memory = model.read(
            torch.from_numpy(whole)[None].to(model.device), keep_all=True, batch_tokens=batch_tokens, fingerprint=False
        )
    spans = _places(whole, facts)
    ranks: dict[tuple[int, int], list[int]] = defaultdict(list)
    for quiz, (start, end) in zip(quizzes, spans, strict=True):
        query = torch.tensor([_ids(tokenizer, render(quiz)[0])], device=model.device)
        paid: dict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
        for layer, heads, _, weights in AttentionScore().by_head(
            model.model, segments_of(memory), query, torch.ones_like(query, dtype=torch.bool), every=True
        ):
            for place, (head, _) in enumerate(heads):
                paid[layer, head].append(weights[0, place])
        for key, stretches in paid.items():
            attention = torch.cat(stretches)
            best = attention[start:end].max()
            attention[start:end] = -1.0
            ranks[key].append(int((attention >= best).sum()))
        if progress is not None:
            progress(1)
    found = [Head(*key, sum(1 / (1 + r) for r in each) / len(each), max(each)) for key, each in ranks.items()]
    return sorted(found, key=lambda head: -head.score)


def choose_heads(heads: list[Head], most: int = 8, share: float = 0.5) -> list[list[float]]:
    """`selection_heads` of a configuration: the best heads whose score is at least a share of the best one's."""
    kept = [head for head in heads[:most] if head.score >= share * heads[0].score]
    return sorted([head.layer, head.head, round(head.score, 3)] for head in kept)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _places(whole: np.ndarray, facts: list[np.ndarray]) -> list[tuple[int, int]]:
    """The place of each fact, in order."""
    spans, at = [], 0
    for fact in facts:
        windows = np.lib.stride_tricks.sliding_window_view(whole[at:], len(fact))
        start = at + int(np.flatnonzero((windows == fact).all(1))[0])
        spans.append((start, start + len(fact)))
        at = start + len(fact)
    return spans
