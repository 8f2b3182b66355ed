"""Everything that is shown of an answer, as plain numbers, lists and texts: what the page draws and `--json` prints.

Places in the text are *slots*: token positions in the whole text, in which a document that begins anew at a chunk border
may leave some empty before it. Characters count those of all documents, one behind the other.
"""

import itertools
from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..asking import Answer
from ..data.text import decode_pieces
from ..modeling import SharedLLMForCausalLM
from ..selection.cite import documents
from .attention import LayerAttention, attention_paid

# Chunks that come with their whole text if nothing else makes them worth it: so many of the best by score.
BEST = 200
# Characters of the others' beginnings.
EXCERPT = 80


@dataclass(frozen=True)
class Document:
    """name, and where it begins and ends: slots and characters."""

    name: str
    tokens: list[int]
    characters: list[int]


@dataclass(frozen=True)
class Part:
    """A run of a chunk that is kept alike.

    tokens     slots it begins and ends at
    stride     one token of so many is kept; 0: none
    attention  paid to its kept tokens, mean over layers
    text       "" where the chunk comes without its text
    """

    tokens: list[int]
    stride: int
    kept: int
    attention: float
    text: str


@dataclass(frozen=True)
class Chunk:
    """One chunk of the text.

    document   index of the document in which it begins
    tokens, characters  where it begins and ends
    kept       its kept tokens
    stride     the finest that any part of it is kept at; 0: nothing is kept
    score      the best of its tokens'
    attention  by layer, in the order of `Facts.layers`; empty if nothing is kept
    parts      partition it; none if nothing is kept and it comes without its text
    """

    document: int
    tokens: list[int]
    characters: list[int]
    kept: int
    stride: int
    score: float
    attention: list[float]
    excerpt: str
    parts: list[Part]


@dataclass(frozen=True)
class Layer:
    """Attention of one layer of the upper model, as shares of all that the answer's tokens paid, mean over heads.

    memory   to the memory; the rest went to question and answer themselves
    sources  to the sources of the answer, a part of `memory`
    gate     what cross-attention is multiplied by; None without a gate
    """

    layer: int
    memory: float
    sources: float
    gate: float | None


@dataclass(frozen=True)
class CitedPart:
    """A source of the answer: characters and tokens count from the beginning of its document, chunks are first and last.

    weight     the best score of a token there
    attention  paid to it, mean over layers
    """

    document: str
    characters: list[int]
    tokens: list[int]
    start: int
    chunks: list[int]
    weight: float
    attention: float
    text: str


@dataclass(frozen=True)
class Facts:
    """What an answer was made of; strides are those that parts may be kept at, coarse to fine."""

    question: str
    answer: str
    model: str
    injection: str
    budget: int
    score: str
    tokens: int
    kept: int
    chunk_size: int
    strides: list[int]
    documents: list[Document]
    layers: list[Layer]
    sources: list[CitedPart]
    chunks: list[Chunk]


class _Text:
    """The text between slots that lie on cuts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: Tensor, spans: list[tuple[int, int]], cuts: set[int]):
        """spans: slots that the documents begin and end at."""
        self.starts, self.texts = [], []
        ordered = sorted(cuts)
        for start, end in spans:
            inside = [start, *ordered[bisect_left(ordered, start + 1) : bisect_left(ordered, end)], end]
            self.starts += inside[:-1]
            self.texts += decode_pieces(tokenizer, ids[start:end].tolist(), [cut - start for cut in inside])
        self.characters = list(itertools.accumulate(map(len, self.texts), initial=0))

    def between(self, start: int, end: int) -> str:
        return "".join(self.texts[bisect_left(self.starts, start) : bisect_left(self.starts, end)])

    def offsets(self, start: int, end: int) -> list[int]:
        """Characters before `start` and before `end`."""
        return [self.characters[bisect_left(self.starts, slot)] for slot in (start, end)]


def gather(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, answer: Answer, name: str) -> Facts:
    """All facts about an answer.

    Args:
        name: of the model, to be shown.
    """
    memory, size = answer.memory, answer.memory.chunk_size
    layers = attention_paid(model, memory, answer.question_ids, answer.answer_ids)
    whole = documents(memory)
    spans = [(document["start"], document["start"] + document["tokens"]) for document in whole]
    real = torch.zeros(-(-int(memory.lengths[0]) // size) * size, dtype=torch.bool)
    for start, end in spans:
        real[start:end] = True
    scores = torch.full(real.shape, -torch.inf)
    scores[: answer.scores.shape[1]] = answer.scores[0].float().cpu()
    best = scores.masked_fill(~real, -torch.inf).view(-1, size).amax(1)
    borders = [(i * size, i * size + n) for i, n in enumerate(real.view(-1, size).sum(1).tolist())]

    runs = _runs(answer, layers, borders, spans)
    strides = sorted({*model.config.ratios, 1}, reverse=True)
    cited = {
        c for s in answer.sources for c in range(s.start // size, (s.start + s.tokens[1] - s.tokens[0] - 1) // size + 1)
    }
    carried = cited | set(best.topk(min(BEST, len(best))).indices.tolist())
    carried |= {
        chunk for chunk, parts in enumerate(runs) if any(0 < stride < strides[0] for _, _, stride, _, _ in parts)
    }
    cuts = {slot for border in borders for slot in border} | {slot for span in spans for slot in span}
    cuts |= {slot for parts in runs for start, end, *_ in parts for slot in (start, end)}
    text = _Text(tokenizer, memory.token_ids[0], spans, cuts)

    by_chunk = _by_chunk(answer, layers, len(borders))
    document_of = torch.bucketize(
        torch.tensor([s for s, _ in borders]), torch.tensor([s for s, _ in spans]), right=True
    )
    chunks = []
    for index, (start, end) in enumerate(borders):
        parts = runs[index] or ([(start, end, 0, 0, 0.0)] if index in carried else [])
        chunks.append(
            Chunk(
                document=int(document_of[index]) - 1,
                tokens=[start, end],
                characters=text.offsets(start, end),
                kept=sum(kept for _, _, _, kept, _ in parts),
                stride=min((stride for _, _, stride, _, _ in runs[index]), default=0),
                score=_rounded(float(best[index])),
                attention=[_rounded(mass) for mass in by_chunk[index].tolist()] if runs[index] else [],
                excerpt=_excerpt(text.between(start, end)),
                parts=[
                    Part([a, b], stride, kept, _rounded(mass), text.between(a, b) if index in carried else "")
                    for a, b, stride, kept, mass in parts
                ],
            )
        )
    return Facts(
        question=answer.question,
        answer=answer.text,
        model=name,
        injection=model.config.injection,
        budget=answer.budget,
        score=answer.score,
        tokens=sum(document["tokens"] for document in whole),
        kept=int(memory.kept[0]),
        chunk_size=size,
        strides=strides,
        documents=[
            Document(document["name"], [start, end], text.offsets(start, end))
            for document, (start, end) in zip(whole, spans, strict=True)
        ],
        chunks=chunks,
        **_attended(answer, layers),
    )


def _runs(
    answer: Answer, layers: list[LayerAttention], borders: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> list[list[tuple[int, int, int, int, float]]]:
    """Of each chunk the runs of tokens of one document kept at one stride: start, end, stride, kept tokens, attention."""
    memory, runs = answer.memory, [[] for _ in borders]
    positions, strides, chunk = (getattr(memory, n)[0].cpu() for n in ("position", "ratio", "chunk"))
    if len(positions) == 0:
        return runs
    mean = _mean(layers).double().cumsum(0)
    new = torch.ones_like(positions, dtype=torch.bool)
    document = torch.bucketize(positions, torch.tensor([start for start, _ in spans]), right=True)
    new[1:] = (strides.diff() != 0) | (chunk.diff() != 0) | (document.diff() != 0)
    first = torch.nonzero(new).flatten().tolist()
    for begin, end in zip(first, [*first[1:], len(positions)], strict=True):
        parts = runs[int(chunk[begin])]
        # The last token of each stride is kept, so a run begins behind the one before.
        start = parts[-1][1] if parts else borders[int(chunk[begin])][0]
        mass = float(mean[end - 1] - (mean[begin - 1] if begin else 0.0))
        parts.append((start, int(positions[end - 1]) + 1, int(strides[begin]), end - begin, mass))
    return runs


def _by_chunk(answer: Answer, layers: list[LayerAttention], chunks: int) -> Tensor:
    """(chunks, layers) attention paid to each chunk."""
    chunk = answer.memory.chunk[0].cpu()
    return torch.stack([torch.zeros(chunks).index_add(0, chunk, layer.tokens) for layer in layers], 1)


def _attended(answer: Answer, layers: list[LayerAttention]) -> dict:
    """The layers and the sources of an answer, with the attention that they got."""
    positions, size, mean = answer.memory.position[0].cpu(), answer.memory.chunk_size, _mean(layers)
    anywhere, sources = torch.zeros_like(positions, dtype=torch.bool), []
    for source in answer.sources:
        end = source.start + source.tokens[1] - source.tokens[0]
        inside = (positions >= source.start) & (positions < end)
        anywhere |= inside
        sources.append(
            CitedPart(
                document=source.document,
                characters=list(source.characters),
                tokens=list(source.tokens),
                start=source.start,
                chunks=[source.start // size, (end - 1) // size],
                weight=_rounded(source.weight),
                attention=_rounded(float(mean[inside].sum())),
                text=source.text,
            )
        )

    def shares(layer: LayerAttention) -> Layer:
        memory, cited = float(layer.tokens.sum()), float(layer.tokens[anywhere].sum())
        return Layer(layer.layer, _rounded(memory), _rounded(cited), layer.gate and _rounded(layer.gate))

    return {"layers": [shares(layer) for layer in layers], "sources": sources}


def _mean(layers: list[LayerAttention]) -> Tensor:
    return torch.stack([layer.tokens for layer in layers]).mean(0)


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def _rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")
