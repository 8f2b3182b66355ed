"""The paper's cut of every tree, from scores of tokens: one path is expanded in each, its siblings are preserved."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .tree import Nodes, preserved_nodes, sample


def kept_by_paths(
    scores: Float[Tensor, " Z"],
    roots: tuple[Int[Tensor, " N"], Int[Tensor, " N"]],
    strides: list[int],
    keep: str = "last",
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
    """Choose the tokens of one text to keep.

    Args:
        scores: (Z,) how much the token at each slot matters; a node has the score of its last token.
        roots: slots at which chunks begin and end, ascending; one tree each.
        strides: stride of the preserved nodes at each level. keep: see `tree.sample`.

    Returns:
        Ascending positions (s,) of the kept tokens, and the stride (s,) of each.
    """
    starts, ends = roots
    zeros, chunk = torch.zeros_like(starts), torch.arange(len(starts))
    scores = scores.cpu()

    def choose(left: Nodes, right: Nodes) -> Bool[Tensor, " n"]:
        return scores[right.end - 1] >= scores[left.end - 1]

    nodes = preserved_nodes(Nodes(zeros, chunk, starts, ends - starts, zeros), len(strides), choose)
    samples = sample(nodes, tuple(strides), keep)
    return samples.position, samples.stride
