"""How deep a base must read to find what a question asks for, and the heads that find it: measured in minutes, without
training.

Questions are made from words of a piece's sentence, and about facts hidden in pieces. A head is as good as its rank of
the right piece. One reading measures all heads of the bottom layers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..context.pieces import Pieces, cut_chunks, cut_pieces, piece_size
from ..context.stops import stops
from ..data.questions.needle import Needle
from ..memory.segments import segments_of
from ..model.config import SharedLLMConfig
from ..prompts import NOTHING, PromptForm, own_words
from ..scoring.heads import HeadIndex
from ..scoring.text_index import TextIndex
from ..scoring.words import words_of
from ..utils.errors import UserError
from ..utils.text import tokenize

# Most heads that rank together, and the number of questions of each kind.
MOST_HEADS, QUESTIONS = 4, 32


class TooLittle(UserError):
    """A text that is too short to measure a base on, or a window too small for pieces that hold a sentence."""


@dataclass(frozen=True)
class Asked:
    """A question and the index of the piece that answers it."""

    question: str
    piece: int


@dataclass(frozen=True)
class Depth:
    """What a base finds if the text is read through `layers` layers.

    heads   [layer, head, weight], of layers ≤ `layers`
    found   mean of 1 / rank of the right piece over the questions that did not choose the heads
    """

    layers: int
    heads: list[list[float]]
    found: float


@dataclass(frozen=True)
class Shallow:
    """depths: ascending. words: what BM25 finds for the same questions. pieces, questions, tokens: the size of the
    measurement."""

    depths: list[Depth]
    words: float
    pieces: int
    questions: int
    tokens: int

    def choose(self, share: float) -> Depth:
        """The shallowest depth that finds at least a share of what the best depth finds."""
        best = max(depth.found for depth in self.depths)
        return next(depth for depth in self.depths if depth.found >= share * best)


@torch.no_grad()
def measure_shallow(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    questions: int = QUESTIONS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Shallow:
    """Measure a base that is extended to read through all layers to try and to keep their keys.

    Args:
        model: with injection="deep" and an injection map of all layers 0 … M.
        text: the text to ask about; some 20,000 tokens suffice to tell heads apart.
        questions: number of questions of each kind; even ones choose heads, odd ones evaluate them.
        progress: called with the number of tokens read, and with 1 for each question.

    Raises:
        TooLittle: the pieces of the text hold too few sentences to ask about.
    """
    rng, form = random.Random(seed), PromptForm.of(tokenizer)
    quizzes = [Needle().make(rng, "", "train") for _ in range(questions)]
    whole = with_facts(rng, text, [quiz.facts[0] for quiz in quizzes])
    ids = tokenize(tokenizer, whole).to(model.device)
    # Before the text is read, which takes a minute.
    pieces = _cut(model.config, tokenizer, ids[0].cpu())
    texts = tokenizer.batch_decode(
        [ids[0, start:end].tolist() for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)]
    )
    asked = _about_facts(texts, quizzes) + _about_sentences(rng, texts, questions)
    if len(asked) < questions:
        raise TooLittle(f"the text has only {len(asked)} sentences to ask about: name a longer text, in sentences.")
    memory = model.read(ids, keep_all=True, fingerprint=False, progress=progress)
    segments = segments_of(memory)
    index = TextIndex(segments, tokenizer, model.config.window, pieces)
    every = [
        [i, h, 1.0] for i, _ in model.config.injection_map for h in range(model.config.text_config.num_attention_heads)
    ]
    by_heads = HeadIndex(model.model, segments, index.pieces, every)
    nothing = form.question(NOTHING, after_context=True)
    paid, words = [], []
    for each in asked:
        prompt = form.question(each.question, after_context=True).to(model.device)
        own = own_words(prompt, nothing)
        paid.append(by_heads.weights(prompt, own))
        words.append(reciprocal(index.words.scores(each.question)[None], each.piece)[0])
        if progress is not None:
            progress(1)
    depths = [_best_of(d, every, paid, asked) for d in range(1, model.config.lower_layers + 1)]
    return Shallow(depths, float(torch.stack(words).mean()), len(index.pieces), len(asked), ids.shape[1])


def _cut(config: SharedLLMConfig, tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Pieces:
    """The pieces in which a model reads a text (T,), and which it ranks."""
    least = piece_size(config.window)
    if config.marks is not None:
        return cut_chunks(config.marks, ids, config.chunk_size, least)
    return cut_pieces(stops(tokenizer, ids), torch.tensor([0]), torch.tensor([len(ids)]), least)


def _best_of(layers: int, every: Sequence[Sequence[float]], paid: list[Tensor], asked: list[Asked]) -> Depth:
    """Heads of layers ≤ `layers`, added one by one as long as they find more together; chosen on every second question."""
    able = [number for number, (layer, _, _) in enumerate(every) if layer <= layers]
    chosen: list[int] = []
    found = 0.0
    while len(chosen) < MOST_HEADS:
        tried = torch.stack([
            reciprocal(weights[able] + weights[chosen].sum(0), each.piece)
            for weights, each in list(zip(paid, asked, strict=True))[::2]
        ]).mean(0)  # fmt: skip
        best = int(tried.argmax())
        if float(tried[best]) <= found + 1e-3:
            break
        chosen.append(able[best])
        found = float(tried[best])
    judged = [
        reciprocal(weights[chosen].sum(0)[None], each.piece)[0]
        for weights, each in list(zip(paid, asked, strict=True))[1::2]
    ]
    heads = sorted([int(every[number][0]), int(every[number][1]), 1.0] for number in chosen)
    return Depth(layers, heads, float(torch.stack(judged).mean()))


def reciprocal(scores: Tensor, piece: int) -> Tensor:
    """(k,) 1 / rank of a piece in k rankings (k, n); ties count as the last rank."""
    return 1 / (scores >= scores[:, piece : piece + 1]).sum(1).float()


def with_facts(rng: random.Random, text: str, facts: list[str]) -> str:
    """Insert facts as sentences at the ends of some paragraphs of a text."""
    paragraphs = text.split("\n\n")
    for place, fact in zip(rng.sample(range(len(paragraphs)), min(len(facts), len(paragraphs))), facts, strict=False):
        paragraphs[place] = f"{paragraphs[place]} {fact.strip()}"
    return "\n\n".join(paragraphs)


def _about_facts(texts: list[str], quizzes: list) -> list[Asked]:
    found = []
    for quiz in quizzes:
        holding = [place for place, text in enumerate(texts) if quiz.facts[0].strip() in text]
        if len(holding) == 1:  # not cut by the end of a piece, and occurs once
            found.append(Asked(quiz.question, holding[0]))
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
