"""The demo of a chat model that was extended without training: facts hidden in a long text are asked for, by the memory
and by the simplest alternatives."""

import bisect
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..data.questions.needle import PHRASINGS
from ..data.questions.vocabulary import digits
from ..data.synthetic import needle_keys
from ..evaluation.qa.memory import Memory
from ..evaluation.qa.meter import Meter
from ..evaluation.qa.metrics import hit
from ..evaluation.qa.reader import Reader, TooLong
from ..evaluation.qa.sets import PackedText, Question
from ..evaluation.qa.systems import Ask, Harness, Resources, Skipped, make
from ..prompts import FEW_WORDS
from ..utils.errors import UserError
from ..utils.hardware import now

SYSTEMS = {
    "closed": "no text at all",
    "sharedllm": "memory",
    "same-pieces-text": "the same pieces as text",
    "bm25-text": "BM25's pieces as text",
}
NEW_TOKENS = 16
_BORDER = re.compile(r"(?<=[.!?])\s|\n")


@dataclass
class Asked:
    """The results of one system. found: by depth, shares of the facts. shown: tokens of the text for a question, on
    average. seconds: a question, on average; prepare: reading the text, once."""

    found: dict[float, float] = field(default_factory=dict)
    shown: float = 0.0
    seconds: float = 0.0
    prepare: float = 0.0


def with_facts(text: str, depths: list[float], each: int, rng: random.Random) -> tuple[str, list[Question]]:
    """A text with `each` facts hidden at every depth (0: its beginning), after a sentence or a line, and a question for
    each fact. Facts of one depth have different forms.

    Raises:
        UserError: more facts than keys.
    """
    keys = needle_keys("test")
    if len(depths) * each > len(keys):
        raise UserError(f"needles={each} asks for {len(depths) * each} facts, and there are {len(keys)}: lower it.")
    chosen = iter(rng.sample(keys, len(depths) * each))
    borders = [match.start() for match in _BORDER.finditer(text)] or [len(text)]
    pieces, questions, last, length = [], [], 0, 0
    for depth in sorted(depths):
        place = borders[min(bisect.bisect_left(borders, int(depth * len(text))), len(borders) - 1)]
        for number in range(each):
            fact, question, _ = PHRASINGS[number % len(PHRASINGS)]
            key, value = next(chosen), digits(rng)
            said = fact.format(key=key, value=value)
            pieces += [text[last:place], said]
            start = length + len(pieces[-2]) + 1
            length = start - 1 + len(said)
            last = place
            name = f"{depth}-{number}"
            questions.append(Question(name, question.format(key=key), (value,), ((start, length),), name))
    return "".join([*pieces, text[last:]]), questions


def ask_facts(
    model: SharedLLMForCausalLM,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    depths: list[float],
    each: int,
    budget: int,
    seed: int,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Ask for every fact, by each of `SYSTEMS`.

    Args:
        base: answers from text in its window. budget: most tokens of the text that are shown for a question.
        progress: called with 1 after each question.

    Returns:
        tokens of the text, bytes of the memory, and an `Asked` for each system.

    Raises:
        UserError: pieces and question don't fit into the base's window; more facts than keys.
    """
    whole, questions = with_facts(text, depths, each, random.Random(seed))
    meter = Meter(tokenizer)
    packed = PackedText(
        "demo", whole, (("text", 0, len(whole)),), ((0, len(whole)),), tuple(questions), meter.count(whole)
    )
    resources = Resources(
        Harness(Reader(base, tokenizer), meter), [packed], shared=lambda _: Memory(model, tokenizer, meter)
    )
    found: dict[str, Asked] = {}
    spans: dict[str, tuple] = {}
    size = 0
    for name in SYSTEMS:
        system, begin = make(name, resources), now()
        state = system.prepare(packed)
        asked = found[name] = Asked(prepare=now() - begin)
        if name == "sharedllm":
            size = state[0].nbytes
        right: dict[float, list[float]] = {}
        for question in questions:
            shown = budget if system.budgeted else None
            try:
                reply = system.answer(state, Ask(question, FEW_WORDS, NEW_TOKENS, shown, spans.get(question.id, ())))
            except Skipped as reason:
                raise UserError(
                    f"the base can't be asked: {reason}; lower budget={budget}, or name a base with a longer window."
                ) from None
            if name == "sharedllm":
                spans[question.id] = reply.spans
            right.setdefault(float(question.id.partition("-")[0]), []).append(hit(reply.text, question.answers))
            asked.shown += reply.selected_tokens / len(questions)
            asked.seconds += sum(reply.seconds.values()) / len(questions)
            progress(1)
        asked.found = {depth: sum(hits) / len(hits) for depth, hits in right.items()}
    return {"tokens": packed.tokens, "bytes": size, "questions": len(questions), "systems": found}


def full_attention(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, limit: float) -> dict:
    """What the base alone does with the whole text: seconds until it was read, or why it was not."""
    try:
        return {"seconds": Reader(base, tokenizer).read(text, limit).seconds, "why": None}
    except TooLong as reason:
        return {"seconds": None, "why": str(reason)}
