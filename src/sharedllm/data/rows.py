"""One training sample: context, running text, labels. Every sample depends only on seed, step and row.

Kinds of samples: `text`, with the text before it as context; `alone`, without context; `echo`, with the running text
itself as context; `copy`, in which a span of the context is repeated; `instructions`, records of a file; every kind of
`sharedllm.data.questions`, with its facts hidden in the context; and `crowd`, a context full of facts of one form, with
questions about some of them.
"""

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..model.targets import IGNORE
from ..utils.errors import UserError, first_of
from ..utils.json_text import parse_json
from ..utils.text import decode, tokenize
from .questions import MIX, QUESTIONS
from .questions.base import Quiz, Split, encode, hide, sentence_borders
from .questions.needle import crowd

QUERY_TOKENS = 16
# Facts of a crowd.
MOST_ALIKE = 24
NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Row:
    """A sample; all arrays int64.

    context  (T,) may be empty     running  (L,)
    labels   (L,) -100 where nothing is learnt     query  (Q,) what selects parts of the context
    """

    kind: str
    context: np.ndarray
    running: np.ndarray
    labels: np.ndarray
    query: np.ndarray


class Texts(Protocol):
    """Token ids of samples of text, by number: `Spans`, or a list."""

    def __getitem__(self, number: int, /) -> np.ndarray: ...


@dataclass
class RowMaker:
    """Makes rows from samples of text.

    Args:
        tokenizer: of the model. split: selects keys and phrasings of questions.
        chat: questions through the tokenizer's chat template. instructions: records of `load_instructions`.
    """

    tokenizer: PreTrainedTokenizerBase
    split: Split = "train"
    chat: bool = False
    instructions: list[Mapping[str, str]] = field(default_factory=list)

    def make(
        self, kind: str, rng: random.Random, spans: Texts, number: int, context: int, running: int, questions: int = 1
    ) -> Row:
        """Make a row of a kind from sample `number` of `spans`, which has context + running tokens."""
        text = spans[number]
        if kind == "text":
            return self._text(text[:context], text[context:])
        if kind == "alone":
            return self._text(NONE, text[context:])
        if kind == "echo":
            return replace(self._text(text[context:], text[context:]), kind=kind)
        if kind == "copy":
            return self._copy(rng, text, context)
        if kind == "instructions":
            return self._instruction(rng.choice(self.instructions), context, running)
        return self._questions(kind, rng, text, context, questions)

    def encode(self, text: str) -> np.ndarray:
        return tokenize(self.tokenizer, text)[0].numpy()

    @functools.cached_property
    def _ordinary_tokens(self) -> list[int]:
        special = set(self.tokenizer.all_special_ids)
        return [i for i in range(len(self.tokenizer)) if i not in special]

    def _text(self, context: np.ndarray, running: np.ndarray) -> Row:
        return Row("text" if len(context) else "alone", context, running, running, running[:QUERY_TOKENS])

    def _copy(self, rng: random.Random, text: np.ndarray, context: int) -> Row:
        """A span occurs twice: in the context (or earlier in the running text), and again; the second one has labels.

        Without a context half of the spans are random tokens, which a memory with strides above 1 could not hold.
        """
        ids, length = text.copy(), len(text)
        size = rng.randint(min(8, (context or length) // 4), (context or length) // 2 - 1)
        size = min(size, length - context - 1)
        source = rng.randint(0, (context or length - size) - size)
        target = rng.randint(context or source + size, length - size)
        if not context and rng.random() < 0.5:
            ids[source : source + size] = rng.choices(self._ordinary_tokens, k=size)
        ids[target : target + size] = ids[source : source + size]
        labels = np.full(length, IGNORE)
        labels[target + 2 : target + size] = ids[target + 2 : target + size]
        return Row("copy", ids[:context], ids[context:], labels[context:], ids[target : target + 2])

    def _questions(self, kind: str, rng: random.Random, text: np.ndarray, context: int, most: int) -> Row:
        """Facts hidden in the context (or, without one, in the text before the questions), and questions at the end."""
        running = len(text) - context
        # At least half of the space stays text.
        tail, tail_labels, facts, asked, query = [], [], [], set(), NONE
        room = running // 2 if context else running // 3
        space = (context or len(text) - room) * 3 // 4
        haystack = decode(self.tokenizer, text[: context or len(text) - room].tolist())
        alike = crowd(rng, rng.randint(4, MOST_ALIKE), self.split) if kind == "crowd" else []
        for _ in range(rng.randint(1, most)):
            try:
                quiz = alike.pop() if kind == "crowd" else self._quiz(kind, rng, haystack)
            except (ValueError, IndexError):
                # For instance a text without sentences: it stays a sample of text.
                continue
            prompt, response = encode(quiz, self.tokenizer, self.chat)
            encoded = [self.encode(fact) for fact in quiz.facts]
            used = sum(map(len, facts)) + sum(map(len, encoded))
            if quiz.question in asked or sum(map(len, tail)) + len(prompt) + len(response) > room:
                continue
            if used > space:
                continue
            asked.add(quiz.question)
            facts += encoded
            tail += [prompt, response]
            tail_labels += [np.full(len(prompt), IGNORE), response]
            query = prompt
        if not tail:
            return self._text(text[:context], text[context:])
        if kind == "crowd":
            # Facts without a question are hidden too, as far as they fit.
            for fact in (self.encode(quiz.facts[0]) for quiz in alike):
                if sum(map(len, facts)) + len(fact) <= space:
                    facts.append(fact)
            rng.shuffle(facts)
        end, end_labels = np.concatenate(tail), np.concatenate(tail_labels)
        front = context or len(text) - len(end)
        borders = sentence_borders(self.tokenizer, text) if facts else None
        hidden = hide(rng, text, facts, front, borders) if facts else text[:front]
        ids = np.concatenate([hidden, text[front : len(text) - len(end)], end])
        labels = np.concatenate([np.full(len(text) - len(end), IGNORE), end_labels])
        return Row(kind, ids[:context], ids[context:], labels[context:], query)

    def _quiz(self, kind: str, rng: random.Random, haystack: str) -> Quiz:
        name = rng.choice(MIX) if kind == "questions" else kind
        return QUESTIONS.find(name).make(rng, haystack, self.split)

    def _instruction(self, record: Mapping[str, str], context: int, running: int) -> Row:
        """A record of a file. Its context and its turn must fit: nothing is cut."""
        quiz = Quiz((), record["question"], record["answer"], record.get("lead", ""))
        prompt, response = encode(quiz, self.tokenizer, self.chat)
        ids = self.encode(record["context"])
        if len(ids) > context or len(prompt) + len(response) > running:
            raise UserError(
                f"{record['where']} has {len(ids):,} tokens of context and {len(prompt) + len(response):,} of question and "
                f"answer; the recipe has context={context} and running={running}: raise them or leave the record out."
            )
        labels = np.concatenate([np.full(len(prompt), IGNORE), response])
        return Row("instructions", ids, np.concatenate([prompt, response]), labels, prompt)


def load_instructions(files: list[str]) -> list[dict[str, str]]:
    """Records with `context`, `question` and `answer` from JSON-lines files (as written by `sharedllm questions`).

    Raises:
        UserError: a missing file, a line that is not JSON, or a record that lacks a key; names file and line. Or no record at all.
    """
    records = []
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"data.instructions: {file} does not exist.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"data.instructions: {file} can't be read: {error}.") from None
        for number, line in enumerate(text.split("\n"), 1):  # a value may hold U+2028, at which `splitlines` would cut
            if not line.strip():
                continue
            try:
                record = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}, line {number}: not JSON ({error}); fix the line.") from None
            if not isinstance(record, dict):
                raise UserError(f"{file}, line {number}: a record must hold keys and values.")
            for key in ("context", "question", "answer"):
                if not isinstance(record.get(key), str):
                    raise UserError(f"{file}, line {number}: {key} is missing or not text.")
            records.append(record | {"where": f"{file}, line {number}"})
    if files and not records:
        raise UserError(f"data.instructions: {first_of(files)} holds no record: name a file with some.")
    return records
