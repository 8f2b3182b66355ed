"""Shallow heads as a retriever: the pieces of a text that a few heads of the bottom layers attend to from a question.

A handful of heads in the lower third of a model look for the requested fact, whatever it is (retrieval heads: Wu et
al., arXiv 2404.15574; as a ranker: QRHead, arXiv 2506.09944). `sharedllm calibrate` finds them. The memory keeps their
keys, so a question costs one product with them and no reading.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..context.pieces import Pieces
from ..context.tree import Nodes
from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.families import Rotations
from ..model.rope import rotate

# Triples: layer, head, weight.
Heads = Sequence[Sequence[float]]
# Tokens of the text to score at once.
_BLOCK = 32_768


@torch.no_grad()
def head_scores(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    pieces: Pieces,
    question_ids: Tensor,
    own: Tensor,
    heads: Heads,
) -> Tensor:
    """How much the heads attend to each piece: a softmax over the whole text, averaged over the question's own tokens.

    Args:
        segments: of one text, with the keys of those heads' layers. pieces: n of them.
        question_ids: (1, Q), as it follows the prefix. own: (1, Q) bool, the tokens that count.

    Returns:
        (n,) float, the weighted mean over the heads; it sums to at most 1 over the pieces.
    """
    by_head = head_weights(model, segments, pieces, question_ids, own, heads)
    shares = torch.tensor([head[2] for head in heads])
    return (shares[:, None] * by_head).sum(0) / shares.sum()


@torch.no_grad()
def head_weights(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    pieces: Pieces,
    question_ids: Tensor,
    own: Tensor,
    heads: Heads,
) -> Tensor:
    """(heads, n) the scores of single heads, before `head_scores` averages them."""
    queries = _queries(model, question_ids, own, heads)
    owner = pieces.owners(max(segment.end for segment in segments))
    pair = {index: place for place, (index, _) in enumerate(model.config.injection_map)}
    lse = [torch.full((q.shape[0], len(pieces)), -torch.inf) for q in queries]
    layers = sorted({int(layer) for layer, _, _ in heads})
    for segment in segments:
        for start in range(0, int(segment.lengths[0]), _BLOCK):
            columns = torch.arange(start, min(start + _BLOCK, int(segment.lengths[0])))
            places = (columns % segment.chunk_size)[None].to(question_ids.device)
            of = owner[segment.start + columns]
            for layer in layers:
                keys = segment.keys(pair[layer], columns[None]).to(question_ids.device)
                keys = _turned(model, layer, keys, places)
                for number, (at, head, _) in enumerate(heads):
                    if int(at) == layer:
                        group = int(head) // (model.upper.config.num_attention_heads // keys.shape[1])
                        logits = (queries[number].to(keys.dtype) @ keys[0, group].T).float().cpu()
                        lse[number] = torch.logaddexp(lse[number], _by_piece(logits, of, len(pieces)))
    return torch.stack([each.softmax(-1).mean(0) for each in lse])


def _queries(model: SharedLLMModel, question_ids: Tensor, own: Tensor, heads: Heads) -> list[Tensor]:
    """Each head's scaled, rotated queries (q, D) of the question's own tokens, placed just after a chunk."""
    lower, config = model.lower(), model.config
    length, prefix = question_ids.shape[1], len(config.prefix or [])
    depth = max(int(layer) for layer, _, _ in heads)
    unit = Nodes(*(torch.tensor([n]) for n in (0, 0, 0, length, 0)))
    places, zeros = torch.arange(length), torch.zeros(length, dtype=torch.long)
    states = lower.encode(question_ids, unit, zeros, places, depth, list)
    positions = torch.arange(length, device=question_ids.device)[None] + prefix + config.chunk_size
    by = Rotations(model.upper.rotary_emb, model.upper.config, positions, states[0])
    found = []
    for layer, head, _ in heads:
        block = model.upper.layers[int(layer)]
        attention = getattr(block, lower.family.attention)
        normed = lower.family.attention_input(block, states[int(layer)][None])
        turned = rotate(lower.family.queries(attention, normed).transpose(1, 2), by.queries(int(layer), attention))
        found.append(turned[0, int(head)][own[0].to(turned.device)] * attention.scaling)
    return found


def _turned(model: SharedLLMModel, layer: int, keys: Tensor, places: Tensor) -> Tensor:
    """Keys (1, G, T, D) rotated to their places (1, T) in their chunks, after the prefix."""
    lower = model.lower()
    positions = places + len(model.config.prefix or [])
    by = Rotations(model.upper.rotary_emb, model.upper.config, positions, keys)
    return rotate(keys, by.keys(layer, getattr(model.upper.layers[layer], lower.family.attention)))


def _by_piece(logits: Tensor, owner: Tensor, pieces: int) -> Tensor:
    """(q, n) log-sum-exp of logits (q, T) over each piece; −∞ for a piece without tokens here."""
    inside = owner >= 0
    logits, owner = logits[:, inside], owner[inside]
    out = torch.full((len(logits), pieces), -torch.inf)
    if not len(owner):
        return out
    most = logits.amax(1, keepdim=True)
    sums = torch.zeros(len(logits), pieces).index_add_(1, owner, (logits - most).exp())
    return sums.log() + most
