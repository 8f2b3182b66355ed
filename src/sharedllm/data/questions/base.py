"""Questions about a long text with checkable answers, and hiding their facts in the text."""

import functools
import random
import re
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...prompts import PromptForm, plain
from ...utils.errors import UserError
from ...utils.text import tokenize

Split = Literal["train", "validation", "test"]

# The end of a response in the plain form.
STOP = ".\n"


@dataclass(frozen=True)
class Quiz:
    """A question with its answer and the facts needed for it.

    facts     sentences to hide in the text, in this order; empty if the question is about the text itself
    question  as a person would ask it
    answer    the beginning of a right answer
    lead      words that an answer sentence begins with, for models that continue a text
    """

    facts: tuple[str, ...]
    question: str
    answer: str
    lead: str = ""


class QuestionTask(Protocol):
    """One kind of question."""

    @property
    def name(self) -> str: ...

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        """A question.

        Args:
            text: the text in which the facts will be hidden, for tasks about the text itself.
            split: keys and phrasings of the splits differ, so that nothing in a test was trained on.

        Raises:
            UserError: no question of this kind can be made from the text.
        """
        ...


def choose(rng: random.Random, phrasings: tuple[str, ...], split: Split) -> int:
    """Index of a phrasing: the last one is reserved for validation and test, which use the others too."""
    return rng.randrange(len(phrasings) - (split == "train"))


def is_right(quiz: Quiz, given: str) -> bool:
    """Whether a text begins with the answer, ignoring case, spaces and any text after it."""
    words = _words(given.strip().removeprefix(quiz.lead.strip()))
    answer = _words(quiz.answer)
    return bool(answer) and words[: len(answer)] == answer


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", text.lower().strip().rstrip(".!?"))


def render(quiz: Quiz) -> tuple[str, str]:
    """Prompt and response in the plain form, as texts. The space between them belongs to the response, so that the two
    can be tokenised separately: a word and the space before it are one token, in the answer as in the fact."""
    prompt = plain(quiz.question, quiz.lead)
    space = quiz.lead[len(quiz.lead.rstrip(" ")) :] if quiz.lead else " "
    return prompt, f"{space}{quiz.answer}{STOP}"


def encode(quiz: Quiz, tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Ids of prompt and response.

    Args:
        chat: use the tokenizer's chat template, followed by the token that ends a turn; otherwise as in `render`.

    Raises:
        UserError: `chat` without a chat template.
    """
    if not chat:
        prompt, response = (tokenize(tokenizer, text) for text in render(quiz))
    else:
        form = PromptForm.of(tokenizer, chat=True)
        end = [] if form.turn_end is None else [form.turn_end]
        said = tokenize(tokenizer, f"{quiz.lead}{quiz.answer}.")
        prompt, response = form.whole(quiz.question), torch.cat([said, torch.tensor([end], dtype=torch.long)], 1)
    return prompt[0].numpy(), response[0].numpy()


def hide(
    rng: random.Random, filler: np.ndarray, facts: list[np.ndarray], length: int, borders: np.ndarray | None = None
) -> np.ndarray:
    """`length` tokens: the beginning of the filler, with the facts inserted in order at random places.

    Args:
        borders: offsets in the filler at which a sentence has ended; facts go anywhere if there are none.

    Raises:
        UserError: the facts are longer than `length`, or the filler is too short.
    """
    room = length - sum(map(len, facts))
    if room < 0 or room > len(filler):
        raise UserError(
            f"{len(facts)} facts of {length - room:,} tokens and {len(filler):,} tokens of text don't make {length:,} tokens."
        )
    places = [int(b) for b in borders if b <= room] if borders is not None else []
    cuts = sorted(rng.choice(places) if places else rng.randint(0, room) for _ in facts)
    pieces, previous = [], 0
    for cut, fact in zip(cuts, facts, strict=True):
        pieces += [filler[previous:cut], fact]
        previous = cut
    return np.concatenate([*pieces, filler[previous:room]])


def sentence_borders(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> np.ndarray:
    """Offsets after tokens that end a sentence or a line."""
    return np.flatnonzero(np.isin(ids, _ends(tokenizer))) + 1


@functools.lru_cache(maxsize=4)
def _ends(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return np.array([i for i, text in enumerate(texts) if re.search(r"[.!?]['\"”’)]*\s*$|\n\s*$", text)])


def sentences(text: str) -> list[str]:
    """Sentences of 6 to 40 words, in order."""
    found = re.split(r"(?<=[.!?])[\"”’)]*\s+", " ".join(text.split()))
    return [s for s in found if 6 <= len(s.split()) <= 40 and s[-1:] in ".!?"]
