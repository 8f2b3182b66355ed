"""Rankings of a text's pieces for a question without a memory: words, embeddings, and an oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ...scoring.embedded import SentenceIndex
from ...scoring.encoder import SentenceEncoder
from ...scoring.words import WordIndex
from ...utils.bm25 import BM25, tokenize
from ...utils.errors import UserError
from .pieces import Piece, golden
from .sets import PackedText, Question

# The weight of meaning beside words. Chosen by the evidence of even ids (docs/real/choices.md).
MEANING = 0.75


class Ranking(Protocol):
    """Scores pieces; indexes a text once."""

    @property
    def name(self) -> str: ...

    @property
    def operations(self) -> float:
        """Floating-point operations of an encoder until now."""
        return 0.0

    @property
    def about(self) -> dict[str, Any]:
        """What decides its scores besides its name, as JSON."""
        return {}

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> Any: ...

    def scores(self, index: Any, question: Question) -> np.ndarray:
        """(pieces,) scores; higher is better."""
        ...


def ranked(scores: np.ndarray) -> list[int]:
    """Numbers of the pieces, best first; ties in order of the text."""
    return np.argsort(-scores, kind="stable").tolist()


@dataclass(frozen=True)
class Words(Ranking):
    """BM25 over words (`bm25s`, Lucene's variant, its English stop words)."""

    name: str = "bm25"

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> Any:
        index = BM25()
        index.index(self._words([text.text[p.start : p.end] for p in pieces]), show_progress=False)
        return index

    def scores(self, index: Any, question: Question) -> np.ndarray:
        words = [word for word in self._words([question.question])[0] if word in index.vocab_dict]
        return index.get_scores(words) if words else np.zeros(index.scores["num_docs"])

    def _words(self, texts: list[str]) -> list[list[str]]:
        return tokenize(texts, stopwords="en", show_progress=False, return_ids=False)


@dataclass(frozen=True)
class OwnWords(Ranking):
    """The package's own ranking by words, as `memory:bm25`, without reading the text into a memory."""

    name: str = "words"

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> WordIndex:
        return WordIndex([text.text[p.start : p.end] for p in pieces])

    def scores(self, index: WordIndex, question: Question) -> np.ndarray:
        return index.scores(question.question).double().numpy()


@dataclass(frozen=True)
class Embeddings(Ranking):
    """Cosine of the embeddings of question and piece (all-MiniLM-L6-v2 and similar)."""

    encoder: SentenceEncoder
    name: str = "minilm"

    @property
    def operations(self) -> float:
        return self.encoder.operations

    @property
    def about(self) -> dict[str, Any]:
        return {"encoder": self.encoder.fingerprint}

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> Tensor:
        return self.encoder.sentences([text.text[p.start : p.end] for p in pieces]).float()

    def scores(self, index: Tensor, question: Question) -> np.ndarray:
        return (index @ self.encoder.question(question.question).float()).numpy()


@dataclass(frozen=True)
class SentenceEmbeddings(Ranking):
    """A piece counts as much as its best sentence, which is embedded alone."""

    encoder: SentenceEncoder
    name: str = "minilm-sentences"

    @property
    def operations(self) -> float:
        return self.encoder.operations

    @property
    def about(self) -> dict[str, Any]:
        return {"encoder": self.encoder.fingerprint}

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> SentenceIndex:
        return SentenceIndex(self.encoder, [text.text[p.start : p.end] for p in pieces])

    def scores(self, index: SentenceIndex, question: Question) -> np.ndarray:
        return index.scores(question.question)[0].numpy()


@dataclass(frozen=True)
class Both(Ranking):
    """Words and meaning, each between 0 for the worst piece of a text and 1 for the best one, in a weighted mean (Bruch et al., ACM
    TOIS 2023): the strongest rival without a memory."""

    words: Ranking
    meaning: Ranking
    weight: float = MEANING
    name: str = "both"

    @property
    def operations(self) -> float:
        return self.words.operations + self.meaning.operations

    @property
    def about(self) -> dict[str, Any]:
        return self.meaning.about

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> tuple[Any, Any]:
        return self.words.index(text, pieces), self.meaning.index(text, pieces)

    def scores(self, index: tuple[Any, Any], question: Question) -> np.ndarray:
        words, meaning = (
            _scaled(r.scores(i, question)) for r, i in zip((self.words, self.meaning), index, strict=True)
        )
        return (1 - self.weight) * words + self.weight * meaning


def _scaled(scores: np.ndarray) -> np.ndarray:
    """Scores from 0 to 1; all 0 if they are equal."""
    return (scores - scores.min()) / ((scores.max() - scores.min()) or 1.0)


@dataclass(frozen=True)
class Oracle(Ranking):
    """The pieces with the evidence first, then their neighbours from near to far."""

    name: str = "oracle"

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> Sequence[Piece]:
        return pieces

    def scores(self, index: Sequence[Piece], question: Question) -> np.ndarray:
        gold = np.array([i for some in golden(index, question.evidence) for i in some])
        return -np.abs(np.arange(len(index))[:, None] - gold).min(1).astype(float)


def ranking_of(name: str, embeddings: str = "") -> Ranking:
    """A ranking by its name: bm25, words, minilm, minilm-sentences, both or oracle.

    Raises:
        UserError: no ranking of that name, or it needs an encoder and none is named.
    """
    if (name.startswith("minilm") or name == "both") and not embeddings:
        raise UserError(f"{name} needs a sentence encoder: give embeddings=NAME, its folder or hub id.")
    made = {
        "bm25": Words,
        "words": OwnWords,
        "oracle": Oracle,
        "minilm": lambda: Embeddings(SentenceEncoder.load(embeddings)),
        "minilm-sentences": lambda: SentenceEmbeddings(SentenceEncoder.load(embeddings)),
        "both": lambda: Both(OwnWords(), SentenceEmbeddings(SentenceEncoder.load(embeddings))),
    }
    if name not in made:
        raise UserError(
            f"rankings={name!r} is not known: use {', '.join(made)}, memory:SCORE[~mean], or a sum of some, as bm25+minilm."
        )
    return made[name]()
