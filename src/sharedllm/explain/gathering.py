"""Computes the facts about an answer from its memory, scores and attention."""

import re
from bisect import bisect_right
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..answering.ask import Answer
from ..answering.citations import documents
from ..causal_lm import SharedLLMForCausalLM
from ..utils.errors import clipped
from .attention import LayerAttention, attention_paid
from .facts import Chunk, CitedPiece, Document, Facts, Layer, TextPiece
from .text import ChunkText

# So many of the best chunks by score come with their whole text, even if there is no other reason to show them.
BEST = 200
# The other chunks come with so many characters of their beginning.
EXCERPT = 80


def gather(model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, answer: Answer, name: str) -> Facts:
    """All facts about an answer.

    Args:
        name: of the model, for display.
    """
    memory, whole = answer.memory, [document for document in documents(answer.memory) if document["tokens"]]
    layers = attention_paid(model, memory, answer.question_ids, answer.answer_ids)
    borders = list(zip(*(slots.tolist() for slots in answer.chunks), strict=True))
    begin = [document["start"] for document in whole]
    ends = [min(d["start"] + d["tokens"], after) for d, after in zip(whole, [*begin[1:], borders[-1][1]], strict=True)]

    runs, best, masses = _runs(answer, layers, begin), _best(answer), _by_chunk(answer, layers)
    # A deep model reads pieces of a text whole, or not at all.
    coarse = memory.stride[0].tolist() if model.config.injection == "deep" else model.config.strides
    strides = sorted({*coarse, 1}, reverse=True)
    attended = _attended(answer, layers)
    carried = {chunk for source in attended["sources"] for chunk in range(source.chunks[0], source.chunks[1] + 1)}
    carried |= set(best.topk(min(BEST, len(best))).indices.tolist())
    carried |= {
        chunk for chunk, pieces in enumerate(runs) if any(0 < stride < strides[0] for _, _, stride, _, _ in pieces)
    }
    cuts = {*begin, *ends, *(slot for pieces in runs for start, end, *_ in pieces for slot in (start, end))}
    text = ChunkText(tokenizer, memory.token_ids[0], whole, borders, cuts)
    chunks = []
    for index, (start, end) in enumerate(borders):
        pieces = runs[index] or ([(start, end, 0, 0, 0.0)] if index in carried else [])
        chunks.append(
            Chunk(
                document=bisect_right(begin, start) - 1,
                tokens=[start, end],
                characters=text.characters(start, end),
                kept=sum(kept for _, _, _, kept, _ in pieces),
                stride=min((stride for _, _, stride, _, _ in runs[index] if stride), default=0),
                score=_rounded(float(best[index])) if best[index] > -torch.inf else None,
                attention=[_rounded(mass) for mass in masses[index].tolist()] if runs[index] else [],
                excerpt=_excerpt(text.between(start, end)),
                pieces=[
                    TextPiece([a, b], stride, kept, _rounded(mass), text.between(a, b) if index in carried else "")
                    for a, b, stride, kept, mass in pieces
                ],
            )
        )
    return Facts(
        question=answer.question,
        answer=answer.text,
        found=answer.found,
        model=name,
        injection=model.config.injection,
        budget=answer.budget,
        score=answer.score,
        tokens=sum(end - start for start, end in borders),
        kept=int(memory.kept[0]),
        chunk_size=memory.chunk_size,
        strides=strides,
        documents=[
            _document(text, document, start, end) for document, start, end in zip(whole, begin, ends, strict=True)
        ],
        chunks=chunks,
        **attended,
    )


def _document(text: ChunkText, document: dict, start: int, end: int) -> Document:
    first, last = text.characters(start, end)
    # If its beginning is lost, it begins where its first character would be.
    _, before = document.get("marks", [(0, 0)])[0]
    return Document(document["name"], [start, end], [first - before, last])


def _chunk_of(answer: Answer, slots: Tensor) -> Tensor:
    """Index of each slot's chunk."""
    return torch.bucketize(slots, answer.chunks[0], right=True) - 1


def _runs(
    answer: Answer, layers: list[LayerAttention], begin: list[int]
) -> list[list[tuple[int, int, int, int, float]]]:
    """For each chunk of which something is kept the runs that partition it, of tokens of one document kept at one stride, and
    of tokens that were not read, at stride 0: start, end, stride, kept tokens, attention.

    begin: slots at which documents begin.
    """
    runs = [[] for _ in answer.chunks[0]]
    first_slot, last_slot = (slots.tolist() for slots in answer.chunks)
    positions, strides = answer.memory.position[0].cpu(), answer.memory.stride[0].cpu()
    if len(positions) == 0:
        return runs
    chunk, document = _chunk_of(answer, positions), torch.bucketize(positions, torch.tensor(begin), right=True)
    mean = _mean(layers).double().cumsum(0)
    new = torch.ones_like(positions, dtype=torch.bool)
    # Between two tokens at stride 1 nothing was read. At others a token stands for those around it.
    apart = (positions.diff() > 1) & (strides[1:] == 1) & (strides[:-1] == 1)
    cited = torch.tensor([slot for c in answer.citations for slot in (c.offset + c.start, c.offset + c.end)])
    new[1:] = (
        (strides.diff() != 0) | (chunk.diff() != 0) | (document.diff() != 0) | apart | torch.isin(positions, cited)[1:]
    )
    first = torch.nonzero(new).flatten().tolist()
    for i, j in pairwise([*first, len(positions)]):
        pieces = runs[int(chunk[i])]
        before = pieces[-1][1] if pieces else first_slot[int(chunk[i])]
        start = before
        if strides[i] == 1 and positions[i] > before and (not pieces or pieces[-1][2] == 1):
            start = int(positions[i])
            pieces.append((before, start, 0, 0, 0.0))
        mass = float(mean[j - 1] - (mean[i - 1] if i else 0.0))
        pieces.append((start, int(positions[j - 1]) + 1, int(strides[i]), j - i, mass))
    for pieces, end in zip(runs, last_slot, strict=True):
        if pieces and pieces[-1][2] == 1 and pieces[-1][1] < end:
            pieces.append((pieces[-1][1], end, 0, 0, 0.0))
    return runs


def _best(answer: Answer) -> Tensor:
    """(N,) the best score of each chunk's tokens; −∞ where the score leaves all of them out. Scores may be negative."""
    starts, ends = answer.chunks
    lengths = ends - starts
    chunk = torch.repeat_interleave(torch.arange(len(starts)), lengths)
    slots = torch.arange(len(chunk)) - (torch.cumsum(lengths, 0) - lengths)[chunk] + starts[chunk]
    scores = answer.scores[0].float().cpu()[slots]
    return torch.zeros(len(starts)).scatter_reduce(0, chunk, scores, "amax", include_self=False)


def _by_chunk(answer: Answer, layers: list[LayerAttention]) -> Tensor:
    """(N, layers) attention to each chunk."""
    chunk, nothing = _chunk_of(answer, answer.memory.position[0].cpu()), torch.zeros(len(answer.chunks[0]))
    return torch.stack([nothing.index_add(0, chunk, layer.tokens) for layer in layers], 1)


def _attended(answer: Answer, layers: list[LayerAttention]) -> dict:
    """The layers and the sources of an answer, with their attention."""
    positions, mean = answer.memory.position[0].cpu(), _mean(layers)
    anywhere, sources = torch.zeros_like(positions, dtype=torch.bool), []
    for citation, shown in zip(answer.citations, answer.sources, strict=True):
        start, end = citation.offset + citation.start, citation.offset + citation.end
        inside = (positions >= start) & (positions < end)
        anywhere |= inside
        sources.append(
            CitedPiece(
                document=citation.document,
                place=shown["place"],
                characters=shown["characters"],
                tokens=shown["tokens"],
                start=start,
                chunks=_chunk_of(answer, torch.tensor([start, end - 1])).tolist(),
                weight=_rounded(citation.weight),
                attention=_rounded(float(mean[inside].sum())),
                text=shown["text"],
                answer=stands_in(answer.text, shown["text"]),
            )
        )

    def shares(layer: LayerAttention) -> Layer:
        memory, cited = float(layer.tokens.sum()), float(layer.tokens[anywhere].sum())
        gate = None if layer.gate is None else _rounded(layer.gate)
        return Layer(layer.layer, _rounded(memory), _rounded(cited), gate)

    return {"layers": [shares(layer) for layer in layers], "sources": sources}


def stands_in(answer: str, text: str) -> bool:
    """Whether a text contains the words of an answer in sequence, ignoring case and punctuation."""
    words, inside = (re.findall(r"\w+", t.casefold()) for t in (answer, text))
    return bool(words) and any(inside[i : i + len(words)] == words for i in range(len(inside) - len(words) + 1))


def _mean(layers: list[LayerAttention]) -> Tensor:
    return torch.stack([layer.tokens for layer in layers]).mean(0)


def _excerpt(text: str) -> str:
    return clipped(" ".join(text.split()), EXCERPT)


def _rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")
