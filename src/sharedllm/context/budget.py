"""One token budget for all trees of a text: high-scoring parts stay fine, others coarse (beyond the paper).

The paper expands one path in every tree. Here any node may be expanded, best first over the whole forest, until the
budget of kept tokens is spent. Both children of an expanded node are kept at the next stride, so every cut partitions
its chunk and unexpanded nodes stay coarse, but for those of nothing but −∞, which are left out: of what a score excludes,
even coarse tokens take attention from the rest. A node's score is the best score of its tokens. A parent therefore never
ranks below its child, best-first order is the order of the scores, and no loop over nodes is needed.

Models that read pieces deeper select whole pieces instead: `pieces.choose_pieces` spends their budget.
"""

import itertools
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..utils.errors import UserError, at_least_one, shown
from .tree import one_a_stride


def kept_within(
    scores: Float[Tensor, " Z"],
    roots: tuple[Int[Tensor, " N"], Int[Tensor, " N"]],
    strides: list[int],
    budget: int,
    gist: float = 0.5,
    keep: str = "last",
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
    """Choose the tokens of one text to keep.

    Args:
        scores: (Z,) how much the token at each slot matters; nodes of nothing but −∞ are never kept, even if the budget is
            not used up.
        roots: slots at which chunks begin and end, ascending; one tree each. Slots between chunks hold no token.
        strides: stride at each depth, coarse to fine: of whole chunks, of their halves, quarters, ….
        budget: most tokens to keep.
        gist: if all chunks at the coarsest stride take no more than this share of the budget, they come first (except
            chunks of score −∞), so that something of each remains; otherwise chunks compete like other nodes, and some
            may go.

    Returns:
        Ascending positions (s,) of the kept tokens, s ≤ budget, and the stride (s,) of each.

    Raises:
        UserError: the budget is below 1, or smaller than what the best chunk keeps at the coarsest stride.
    """
    budget = at_least_one("budget", budget, "keeps nothing")
    if not isinstance(gist, Real) or not 0 <= gist <= 1:
        raise UserError(f"gist={shown(gist)} is not a share of the budget: give a number from 0 to 1.")
    if len(roots[0]) == 0:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    starts, ends = _levels(*roots, len(strides))
    best = _best(scores.double().cpu(), starts, ends)
    none = [b.isneginf() for b in best]
    # Of a node of nothing but −∞ nothing is kept, also beside one that is.
    sizes = [
        (-(-(end - start) // stride)).masked_fill(nothing, 0)
        for start, end, stride, nothing in zip(starts, ends, strides, none, strict=True)
    ]
    # The extra cost of each expansion over its node's. The first expansion is keeping a chunk at all.
    costs = [sizes[0]] + [fine.view(-1, 2).sum(1) - coarse for coarse, fine in itertools.pairwise(sizes)]
    ranks = [best[0], *best[:-1]]
    if int(sizes[0].sum()) <= gist * budget:
        ranks[0] = torch.where(ranks[0].isneginf(), ranks[0], torch.inf)
    depth = torch.cat([torch.full_like(cost, d) for d, cost in enumerate(costs)])
    # By score, parents before children of the same score, then by position.
    order = torch.argsort(depth, stable=True)
    order = order[torch.argsort(torch.cat(ranks)[order], descending=True, stable=True)]
    spent, worth = torch.cumsum(torch.cat(costs)[order], 0), ~torch.cat(ranks)[order].isneginf()
    taken = torch.zeros(len(order), dtype=torch.bool)
    least = int(spent[0])
    if worth[0] and least > budget:
        raise UserError(
            f"budget={budget} is less than the {least:,} tokens of one part of the text: give at least {least}."
        )
    over = torch.nonzero((spent > budget) | ~worth)
    taken[order[: int(over[0]) if len(over) else None]] = True
    return _kept(taken.split([len(c) for c in costs]), none, starts, ends, strides, keep)


def _levels(start: Int[Tensor, " N"], end: Int[Tensor, " N"], depths: int) -> tuple[list[Tensor], list[Tensor]]:
    """Starts and ends of the nodes of each depth; children 2 i and 2 i + 1 of node i. Nodes may be empty."""
    starts, ends = [start], [end]
    for _ in range(depths - 1):
        middle = starts[-1] + (ends[-1] - starts[-1]) // 2
        starts, ends = (
            [*starts, torch.stack([starts[-1], middle], 1).flatten()],
            [*ends, torch.stack([middle, ends[-1]], 1).flatten()],
        )
    return starts, ends


def _best(scores: Float[Tensor, " Z"], starts: list[Tensor], ends: list[Tensor]) -> list[Tensor]:
    """The highest score of a token in each node; −∞ for an empty node."""
    lengths = ends[-1] - starts[-1]
    leaf = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    place = torch.arange(len(leaf)) - (torch.cumsum(lengths, 0) - lengths)[leaf] + starts[-1][leaf]
    lowest = torch.full((len(lengths),), -torch.inf, dtype=scores.dtype)
    best = [lowest.scatter_reduce(0, leaf, scores[place], "amax")]
    for _ in starts[1:]:
        best.insert(0, best[0].view(-1, 2).amax(1))
    return best


def _kept(
    taken: tuple[Bool[Tensor, " _"], ...],
    none: list[Bool[Tensor, " _"]],
    starts: list[Tensor],
    ends: list[Tensor],
    strides: list[int],
    keep: str,
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
    """One token per stride of every node in the cut, without those of nothing but −∞ (`none`), ascending, and its stride."""
    # A node is in the cut if the expansion that created it was taken and its own was not.
    made = [taken[0], *(t.repeat_interleave(2) for t in taken[1:])]
    left = zip(made, [*taken[1:], torch.zeros_like(made[-1])], none, strict=True)
    cut = torch.cat([m & ~t & ~nothing for m, t, nothing in left])
    stride = torch.cat([torch.full_like(start, stride) for start, stride in zip(starts, strides, strict=True)])[cut]
    node, position = one_a_stride(torch.cat(starts)[cut], torch.cat(ends)[cut], stride, keep)
    order = torch.argsort(position)
    return position[order], stride[node][order]
