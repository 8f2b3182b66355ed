"""Shallow heads as a retriever: the pieces of a text that a few heads of the bottom layers attend to from a question.

A handful of heads in the lower third of a model look for the requested fact, whatever it is (retrieval heads: Wu et
al., arXiv 2404.15574; as a ranker: QRHead, arXiv 2506.09944). `sharedllm extend` finds them. The memory keeps their
keys, so a question costs one product with them and no reading.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..context.pieces import Pieces, piece_size
from ..context.tree import Nodes
from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.config import SharedLLMConfig
from ..model.families import Rotations
from ..model.rope import rotate

# Triples: layer, head, weight.
Heads = Sequence[Sequence[float]]
# Tokens of the text to score at once, and products with the tokens of a long question.
_BLOCK = 32_768
_PRODUCTS = 2**24


@dataclass(frozen=True)
class _Block:
    """Neighbouring tokens of the text that belong to pieces.

    first   index of the piece that the first token belongs to
    starts  where that piece and each following one begins among the tokens, ascending
    keys    by layer and key-value group, (T, D) at their places in what was read alone, after the prefix
    """

    first: int
    starts: np.ndarray
    keys: dict[tuple[int, int], Tensor]


class HeadIndex:
    """The keys of some heads over a text in pieces, ready for many questions."""

    @torch.no_grad()
    def __init__(self, model: SharedLLMModel, segments: Sequence[Segment], pieces: Pieces, heads: Heads):
        """
        Args:
            segments: of one text, with the keys of those heads' layers. pieces: n of them.
        """
        self.model, self.pieces = model, pieces
        self.heads = [(int(layer), int(head), w) for layer, head, w in heads]
        text = model.upper.config
        self._share = text.num_attention_heads // text.num_key_value_heads
        owner = pieces.owners(max(segment.end for segment in segments))
        self._blocks = [block for segment in segments for block in self._cut(segment, owner)]

    @property
    def nbytes(self) -> int:
        """Bytes of its keys."""
        return sum(keys.nbytes for block in self._blocks for keys in block.keys.values())

    def scores(
        self,
        question_ids: Int[Tensor, "1 Q"],
        own: Bool[Tensor, "1 Q"],
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, " n"]:
        """How much the heads attend to each piece: a softmax over the whole text, averaged over the question's own tokens.

        Args:
            question_ids: (1, Q), as it follows the prefix. own: (1, Q) bool, the tokens that count.
            progress: called with a number of its tokens, which counts each of them when it is read and when it is compared.

        Returns:
            (n,) float, the weighted mean over the heads; it sums to at most 1 over the pieces.
        """
        shares = torch.tensor([weight for _, _, weight in self.heads])
        return (shares[:, None] * self.weights(question_ids, own, progress)).sum(0) / shares.sum()

    @torch.no_grad()
    def weights(
        self,
        question_ids: Int[Tensor, "1 Q"],
        own: Bool[Tensor, "1 Q"],
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "heads n"]:
        """(heads, n) the scores of single heads, before `scores` averages them."""
        # A question that is nothing but its form, such as "?", counts whole.
        own = own if own.any() else torch.ones_like(own)
        every = torch.stack(_queries(self.model, question_ids, own, self.heads, progress))
        total = torch.zeros(len(every), len(self.pieces))
        for queries in every.split(max(1, _PRODUCTS // (_BLOCK * len(every))), 1):
            found = torch.full((*queries.shape[:2], len(self.pieces)), -torch.inf)
            for group in {self._group(layer, head) for layer, head, _ in self.heads}:
                mine = [n for n, (layer, head, _) in enumerate(self.heads) if self._group(layer, head) == group]
                for block in self._blocks:
                    keys = block.keys[group]
                    logits = (queries[mine].flatten(0, 1).to(keys.dtype) @ keys.T).float().cpu()
                    there = slice(block.first, block.first + len(block.starts))
                    sums = _by_piece(logits, block.starts).unflatten(0, (len(mine), -1))
                    found[mine, :, there] = torch.logaddexp(found[mine, :, there], sums)
            total += found.softmax(-1).sum(1)
            if progress is not None:
                progress(queries.shape[1])
        return total / every.shape[1]

    def means(self) -> Float[Tensor, "n groups D"]:
        """(n, groups, D) the mean key of each group over each piece, groups in ascending order of layer and group."""
        groups = sorted({self._group(layer, head) for layer, head, _ in self.heads})
        width = next(iter(self._blocks[0].keys.values())).shape[1]
        sums, lengths = torch.zeros(len(self.pieces), len(groups), width), self.pieces.lengths
        for block in self._blocks:
            ends = [*block.starts[1:].tolist(), len(block.keys[groups[0]])]
            counts = torch.tensor(ends) - torch.from_numpy(block.starts)
            owner = torch.repeat_interleave(block.first + torch.arange(len(counts)), counts)
            for place, group in enumerate(groups):
                sums[:, place].index_add_(0, owner, block.keys[group].float().cpu())
        return sums / lengths[:, None, None]

    def _group(self, layer: int, head: int) -> tuple[int, int]:
        return layer, head // self._share

    def _cut(self, segment: Segment, owner: Int[Tensor, " Z"]) -> list[_Block]:
        config = self.model.config
        pair = {index: place for place, (index, _) in enumerate(config.injection_map)}
        groups = sorted({self._group(layer, head) for layer, head, _ in self.heads})
        blocks = []
        for start in range(0, int(segment.lengths[0]), _BLOCK):
            columns = torch.arange(start, min(start + _BLOCK, int(segment.lengths[0])))
            columns = columns[owner[segment.start + columns] >= 0]
            if not len(columns):
                continue
            of = owner[segment.start + columns].numpy()
            begun = self.pieces.start[of] - segment.start if config.closing else 0
            places = (columns - begun) % _alone(config, segment.chunk_size)
            keys = {}
            for layer in sorted({layer for layer, _ in groups}):
                read = segment.keys(pair[layer], columns[None]).to(self.model.get_input_embeddings().weight.device)
                turned = self._turned(layer, read, places[None].to(read.device))
                keys |= {(at, group): turned[0, group].contiguous() for at, group in groups if at == layer}
            starts = np.searchsorted(of, np.arange(of[0], of[-1] + 1))
            blocks.append(_Block(int(of[0]), starts, keys))
        return blocks

    def _turned(
        self, layer: int, keys: Float[Tensor, "1 G T D"], places: Int[Tensor, "1 T"]
    ) -> Float[Tensor, "1 G T D"]:
        """Keys (1, G, T, D) rotated to their places (1, T), after the prefix."""
        model, lower = self.model, self.model.lower()
        positions = places + len(model.config.prefix or [])
        by = Rotations(model.upper.rotary_emb, model.upper.config, positions, keys)
        return rotate(keys, by.keys(layer, getattr(model.upper.layers[layer], lower.family.attention)))


@torch.no_grad()
def attended(
    model: SharedLLMModel,
    heads: Heads,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    keys: Float[Tensor, "m groups D"],
    tokens: Int[Tensor, " m"],
    starts: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """(n,) as `HeadIndex.scores`, from the mean keys of m stretches instead of all keys.

    Args:
        keys: (m, groups, D), of `HeadIndex.means`. tokens: (m,) how many tokens a stretch has. starts: (n,) the first stretch
            of each document, ascending.
    """
    own = own if own.any() else torch.ones_like(own)
    heads = [(int(layer), int(head), weight) for layer, head, weight in heads]
    text = model.upper.config
    share = text.num_attention_heads // text.num_key_value_heads
    groups = sorted({(layer, head // share) for layer, head, _ in heads})
    total, weights = torch.zeros(len(starts)), sum(weight for _, _, weight in heads)
    for query, (layer, head, weight) in zip(_queries(model, question_ids, own, heads), heads, strict=True):
        mine = keys[:, groups.index((layer, head // share))].float()
        logits = query.float().cpu() @ mine.T + tokens.float().log()
        total += weight * _by_piece(logits, starts.numpy()).softmax(-1).mean(0)
    return total / weights


def _queries(
    model: SharedLLMModel,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    heads: Heads,
    progress: Callable[[int], None] | None = None,
) -> list[Float[Tensor, "q D"]]:
    """Each head's scaled, rotated queries (q, D) of the question's own tokens, placed just after what was read alone."""
    lower, config = model.lower(), model.config
    length, prefix = question_ids.shape[1], len(config.prefix or [])
    depth = max(int(layer) for layer, _, _ in heads)
    unit = Nodes(*(torch.tensor([n]) for n in (0, 0, 0, length, 0)))
    places, zeros = torch.arange(length), torch.zeros(length, dtype=torch.long)
    layer = None if progress is None else lambda: progress(length // depth)
    states = lower.encode(question_ids, unit, zeros, places, depth, list, layer=layer)
    positions = torch.arange(length, device=question_ids.device)[None] + prefix
    positions = positions + _alone(config, config.chunk_size)
    by = Rotations(model.upper.rotary_emb, model.upper.config, positions, states[0])
    turned = {}
    for layer in {int(layer) for layer, _, _ in heads}:
        block = model.upper.layers[layer]
        attention = getattr(block, lower.family.attention)
        normed = lower.family.attention_input(block, states[layer][None])
        queries = rotate(lower.family.queries(attention, normed).transpose(1, 2), by.queries(layer, attention))
        turned[layer] = queries[0, :, own[0].to(queries.device)] * attention.scaling
    return [turned[int(layer)][int(head)] for layer, head, _ in heads]


def _alone(config: SharedLLMConfig, chunk_size: int) -> int:
    """The most tokens that are read alone: a chunk, or a piece of it."""
    return 2 * piece_size(config.window) if config.closing else chunk_size


def _by_piece(logits: Float[Tensor, "q T"], starts: np.ndarray) -> Float[Tensor, "q pieces"]:
    """(q, m) log of the sum of exponentials of logits (q, T) over each of m neighbouring pieces."""
    most = logits.amax(1, keepdim=True)
    sums = np.add.reduceat((logits - most).exp_().numpy(), starts, axis=1)
    return torch.from_numpy(sums).log() + most
