"""What a base is asked to measure it: about facts that are hidden in a text, and about its sentences. It needs no weights."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..context.pieces import Pieces, cut_chunks, cut_pieces, piece_size
from ..context.stops import stops
from ..data.questions.needle import Needle
from ..model.config import SharedLLMConfig
from ..scoring.words import words_of
from ..utils.errors import UserError
from ..utils.text import tokenize
from .rewordings import REWORDINGS

# Questions of each kind about a text.
QUESTIONS = 32


class TooLittle(UserError):
    """A text that is too short to measure a base on, or a window too small for pieces that hold a sentence."""


@dataclass(frozen=True)
class Asked:
    """A question and the index of the piece that answers it."""

    question: str
    piece: int


@dataclass(frozen=True)
class Posed:
    """Questions to a text.

    ids     (1, T) the text with its facts
    pieces  of it, in which it is read and ranked
    asked   none about a fact that is cut by the end of a piece
    """

    ids: Tensor
    pieces: Pieces
    asked: list[Asked]

    @property
    def tokens(self) -> int:
        """How many are read for the questions: the text's, if there are any."""
        return self.ids.shape[1] if self.asked else 0


def pose(
    config: SharedLLMConfig, tokenizer: PreTrainedTokenizerBase, text: str, questions: int = QUESTIONS, seed: int = 0
) -> Posed:
    """Questions made from words of a sentence, and about facts in a text, to tell heads apart that find what is asked for.

    Args:
        text: some 20,000 tokens suffice. questions: of each kind.

    Raises:
        TooLittle: the pieces of the text hold too few sentences to ask about.
    """
    rng = random.Random(seed)
    quizzes = [Needle().make(rng, "", "train") for _ in range(questions)]
    ids = tokenize(tokenizer, _with_facts(rng, text, [quiz.facts[0] for quiz in quizzes]))
    pieces = _cut(config, tokenizer, ids[0])
    texts = _texts(tokenizer, ids, pieces)
    facts = [(quiz.facts[0].strip(), quiz.question) for quiz in quizzes]
    asked = _about_facts(texts, facts) + _about_sentences(rng, texts, questions)
    if len(asked) < questions:
        raise TooLittle(f"the text has only {len(asked)} sentences to ask about: name a longer text, in sentences.")
    return Posed(ids, pieces, asked)


def pose_reworded(window: int, tokenizer: PreTrainedTokenizerBase, text: str, seed: int = 0) -> Posed:
    """Questions that share no word with the facts in a text (`rewordings`), read in the pieces of a window.

    Args:
        text: some 10,000 tokens suffice.
    """
    ids = tokenize(tokenizer, _with_facts(random.Random(seed), text, [fact for fact, _ in REWORDINGS]))
    pieces = _cut_whole(window, tokenizer, ids[0])
    return Posed(ids, pieces, _about_facts(_texts(tokenizer, ids, pieces), REWORDINGS))


def _cut(config: SharedLLMConfig, tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Pieces:
    """The pieces in which a model reads a text (T,), and which it ranks."""
    if config.marks is not None:
        return cut_chunks(config.marks, ids, config.chunk_size, piece_size(config.window))
    return _cut_whole(config.window, tokenizer, ids)


def _cut_whole(window: int, tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Pieces:
    """Those of a text (T,) that is not in chunks."""
    return cut_pieces(stops(tokenizer, ids), torch.tensor([0]), torch.tensor([len(ids)]), piece_size(window))


def _texts(tokenizer: PreTrainedTokenizerBase, ids: Tensor, pieces: Pieces) -> list[str]:
    """Of pieces of a text (1, T)."""
    places = zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)
    return tokenizer.batch_decode([ids[0, start:end].tolist() for start, end in places])


def _with_facts(rng: random.Random, text: str, facts: list[str]) -> str:
    """Insert facts as sentences at the ends of some paragraphs of a text."""
    paragraphs = text.split("\n\n")
    for place, fact in zip(rng.sample(range(len(paragraphs)), min(len(facts), len(paragraphs))), facts, strict=False):
        paragraphs[place] = f"{paragraphs[place]} {fact.strip()}"
    return "\n\n".join(paragraphs)


def _about_facts(texts: list[str], facts: Iterable[tuple[str, str]]) -> list[Asked]:
    """facts: each with its question."""
    found = []
    for fact, question in facts:
        holding = [place for place, text in enumerate(texts) if fact in text]
        if len(holding) == 1:  # not cut by the end of a piece, and occurs once
            found.append(Asked(question, holding[0]))
    return found


def _about_sentences(rng: random.Random, texts: list[str], count: int) -> list[Asked]:
    """Questions made from some words of a sentence, in another order."""
    found = []
    for place in rng.sample(range(len(texts)), len(texts)):
        words = [sorted(set(words_of(s)) - {""}) for s in texts[place].replace("\n", " ").split(". ")]
        words = [[w for w in sentence if w.isalpha() and len(w) > 3] for sentence in words]
        rich = [sentence for sentence in words if len(sentence) >= 6]
        if rich:
            chosen = rng.sample(rng.choice(rich), 4)
            found.append(Asked(f"What is said about {', '.join(chosen[:-1])} and {chosen[-1]}?", place))
        if len(found) == count:
            break
    return found
