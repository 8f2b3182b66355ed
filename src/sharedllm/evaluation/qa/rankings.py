"""Rankings of a text's pieces for a question without a memory: words, embeddings, and an oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, PreTrainedTokenizerBase

from ...scoring.words import WordIndex
from ...utils.bm25 import BM25, tokenize
from ...utils.checkpoints import load_tokenizer
from ...utils.errors import UserError
from ...utils.hardware import default_device
from ...utils.model_names import checkpoint
from .pieces import ENDS, Piece, golden
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


class Embeddings(Ranking):
    """Cosine of sentence embeddings: the mean of an encoder's last states (all-MiniLM-L6-v2 and similar)."""

    def __init__(self, model: str, batch: int = 32):
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(model)
        self.model = AutoModel.from_pretrained(checkpoint(model), dtype=torch.float32).eval().to(default_device())
        self.batch = batch
        self.longest = min(512, int(self.model.config.max_position_embeddings))
        # What no embedding needs is not counted: tables of embeddings, and the pooler of the first token.
        used = {n: w for n, w in self.model.named_parameters() if w.ndim > 1 and "embed" not in n and "pooler" not in n}
        self._linear, self._spent = 2.0 * sum(weight.numel() for weight in used.values()), 0.0
        self._attention = 4.0 * self.model.config.num_hidden_layers * self.model.config.hidden_size

    @property
    def name(self) -> str:
        return "minilm"

    @property
    def operations(self) -> float:
        return self._spent

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> np.ndarray:
        return self.embed([text.text[p.start : p.end] for p in pieces])

    def scores(self, index: np.ndarray, question: Question) -> np.ndarray:
        return index @ self.embed([question.question])[0]

    @torch.no_grad()
    def embed(self, texts: list[str]) -> np.ndarray:
        """(n, E) normalised embeddings; texts of similar length are batched together."""
        order, found = sorted(range(len(texts)), key=lambda i: len(texts[i])), {}
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            encoded = self.tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
            ).to(self.model.device)
            states, mask = self.model(**encoded).last_hidden_state, encoded["attention_mask"][..., None]
            lengths = mask.sum((1, 2)).double()
            self._spent += float((self._linear * lengths + self._attention * lengths**2).sum())
            means = normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
            found |= dict(zip(rows, means.float().cpu().numpy(), strict=True))
        return np.stack([found[i] for i in range(len(texts))])


class Encoder(Protocol):
    """Embeds texts: (n, E), normalised. operations: see `Ranking`."""

    @property
    def operations(self) -> float: ...

    def embed(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class SentenceEmbeddings(Ranking):
    """A piece counts as much as its best sentence, which is embedded alone."""

    encoder: Encoder
    name: str = "minilm-sentences"

    @property
    def operations(self) -> float:
        return self.encoder.operations

    def index(self, text: PackedText, pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings of all sentences (s, E), and where those of each piece begin (pieces,)."""
        sentences = [ENDS.sub("\\g<0>\0", text.text[p.start : p.end]).split("\0") for p in pieces]
        sentences = [[s for s in some if s.strip()] or some[:1] for some in sentences]
        begin = np.cumsum([0, *map(len, sentences[:-1])])
        return self.encoder.embed([sentence for some in sentences for sentence in some]), begin

    def scores(self, index: tuple[np.ndarray, np.ndarray], question: Question) -> np.ndarray:
        sentences, begin = index
        return np.maximum.reduceat(sentences @ self.encoder.embed([question.question])[0], begin)


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
        "minilm": lambda: Embeddings(embeddings),
        "minilm-sentences": lambda: SentenceEmbeddings(Embeddings(embeddings)),
        "both": lambda: Both(OwnWords(), SentenceEmbeddings(Embeddings(embeddings))),
    }
    if name not in made:
        raise UserError(f"the ranking {name!r} is not known: use {', '.join(made)}, or memory:SCORE.")
    return made[name]()
