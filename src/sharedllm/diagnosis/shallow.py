"""How deep a base must read to find what a question asks for, and the heads that find it: measured in minutes, without
training.

A head is as good as its rank of the piece that answers a question (`posed`). One reading measures all heads of the bottom
layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..memory.segments import segments_of
from ..prompts import NOTHING, PromptForm, own_words
from ..scoring.heads import HeadIndex
from ..scoring.text_index import TextIndex
from .posed import Asked, Posed

# Most heads that rank together.
MOST_HEADS = 4


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
    posed: Posed,
    progress: Callable[[int], None] | None = None,
) -> Shallow:
    """Measure a base that is extended to read through all layers to try and to keep their keys.

    Args:
        model: with injection="deep" and an injection map of all layers 0 … M.
        posed: as `pose` makes it; even questions choose heads, odd ones evaluate them.
        progress: called with the number of tokens read, and with 1 for each question.
    """
    form, asked, ids = PromptForm.of(tokenizer), posed.asked, posed.ids.to(model.device)
    memory = model.read(ids, keep_all=True, fingerprint=False, progress=progress)
    segments = segments_of(memory)
    index = TextIndex(segments, tokenizer, model.config.window, posed.pieces)
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
