"""Context trees as spans: which parts of each chunk are kept, and at what stride (paper, section on context trees).

Each chunk has a binary tree. A node is split in two; one child is *selected* and split further, its sibling is
*preserved* and not split; at the last level both children are preserved. So the preserved nodes partition the chunk. A
preserved node at level w keeps every `strides[w - 1]`-th token: the last of each stride, so the node's last token is
always kept.

Everything here is a pure function over spans, stored as a struct of arrays, independent of models.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Nodes:
    """n spans of tokens, one entry a span, all int64 of shape (n,) on the CPU.

    row     which text of the batch
    chunk   index of the chunk in its text, 0 for the oldest
    start   position of the first token in its text
    length  tokens in the span, at least 1
    level   depth in the tree: 0 for the chunk itself, 1 … height for its descendants
    """

    row: Int[Tensor, " n"]
    chunk: Int[Tensor, " n"]
    start: Int[Tensor, " n"]
    length: Int[Tensor, " n"]
    level: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def end(self) -> Int[Tensor, " n"]:
        """(n,) position after the last token."""
        return self.start + self.length

    def __getitem__(self, index: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Nodes":
        return Nodes(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def cat(parts: "list[Nodes]") -> "Nodes":
        return Nodes(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Nodes)))

    def sorted(self) -> "Nodes":
        """By text, then by position."""
        order = torch.argsort(self.start, stable=True)
        return self[order[torch.argsort(self.row[order], stable=True)]]


# (left children, right children) of n nodes → (n,) bool, True where the right child is selected.
Choose = Callable[[Nodes, Nodes], Bool[Tensor, " n"]]


def choose_right(left: Nodes, right: Nodes) -> Bool[Tensor, " n"]:
    """Always the child nearer to the running text."""
    return torch.ones(len(left), dtype=torch.bool)


def chunks(lengths: Int[Tensor, " B"], chunk_size: int) -> Nodes:
    """Cut texts of `lengths` (B,) tokens into chunks of `chunk_size`; the last of each text may be shorter."""
    counts = (lengths + chunk_size - 1) // chunk_size
    row = torch.repeat_interleave(torch.arange(len(lengths)), counts)
    first = torch.cumsum(counts, 0) - counts
    chunk = torch.arange(len(row)) - first[row]
    start = chunk * chunk_size
    return Nodes(
        row, chunk, start, torch.minimum(lengths[row] - start, torch.tensor(chunk_size)), torch.zeros_like(row)
    )


def split_point(length: Int[Tensor, " n"], epsilon: Float[Tensor, " #n"] | float = 0.0) -> Int[Tensor, " n"]:
    """Length of the left child: b = floor(l/2 − ε), clamped to [1, l − 1] so that no child is empty.

    Args:
        length: (n,) lengths, at least 2.
        epsilon: split noise, broadcast against `length`; 0 for inference.
    """
    b = torch.floor(length / 2 - epsilon).long()
    return torch.minimum(b.clamp(min=1), length - 1)


def split(nodes: Nodes, epsilon: Float[Tensor, " #n"] | float = 0.0) -> tuple[Nodes, Nodes]:
    """The left and right children of nodes of at least two tokens."""
    b = split_point(nodes.length, epsilon)
    left = Nodes(nodes.row, nodes.chunk, nodes.start, b, nodes.level + 1)
    right = Nodes(nodes.row, nodes.chunk, nodes.start + b, nodes.length - b, nodes.level + 1)
    return left, right


def preserved_nodes(
    roots: Nodes,
    height: int,
    choose: Choose = choose_right,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Nodes:
    """Grow one tree on each root and return all preserved nodes, by text and position.

    Args:
        roots: the chunks.
        height: levels below the root, at least 1. A node of one token can't be split: it is preserved at its level.
        choose: selects one of each pair of siblings.
        noise: σ of the split noise as a share of the node's length (paper: 1/5 for language modelling, 1/10 for
            instructions, 0 in inference). ε/l is drawn once per level and shared by all trees of the call, so that
            nodes of one level keep equal lengths and form regular batches.
    """
    kept, selected = [], roots
    for level in range(1, height + 1):
        whole = selected.length < 2
        if whole.any():
            kept.append(selected[whole])
            selected = selected[~whole]
        if len(selected) == 0:
            break
        epsilon = torch.randn((), generator=generator) * noise * selected.length if noise else 0.0
        left, right = split(selected, epsilon)
        if level == height:
            kept += [left, right]
            break
        go_right = choose(left, right)
        kept += [left[go_right], right[~go_right]]
        order = torch.argsort(torch.cat([torch.where(go_right)[0], torch.where(~go_right)[0]]))
        selected = Nodes.cat([right[go_right], left[~go_right]])[order]
    return Nodes.cat(kept).sorted() if kept else roots


@dataclass(frozen=True)
class Samples:
    """s kept tokens, by text and position; all int64 of shape (s,) on the CPU.

    node      index into the sampled nodes
    row       which text of the batch
    chunk     index of the chunk in its text
    position  position of the token in its text
    stride    stride of its node: how many tokens it represents
    """

    node: Int[Tensor, " s"]
    row: Int[Tensor, " s"]
    chunk: Int[Tensor, " s"]
    position: Int[Tensor, " s"]
    stride: Int[Tensor, " s"]

    def __len__(self) -> int:
        return len(self.node)


def node_strides(nodes: Nodes, strides: tuple[int, ...]) -> Int[Tensor, " n"]:
    """(n,) the stride of each node: α_w for level w; a chunk too short to split counts as level 1."""
    return torch.tensor(strides)[(nodes.level - 1).clamp(min=0)]


def sample(nodes: Nodes, strides: tuple[int, ...], keep: str = "last") -> Samples:
    """Sample one token per stride of every node.

    A node of l tokens at stride r keeps ceil(l / r) of them: with keep="last" strides are counted from the node's end
    (positions end − 1, end − 1 − r, …), with "first" from its start (start, start + r, …).
    """
    stride = node_strides(nodes, strides)
    node, position = one_a_stride(nodes.start, nodes.end, stride, keep)
    return Samples(node, nodes.row[node], nodes.chunk[node], position, stride[node])


def one_a_stride(
    start: Int[Tensor, " n"], end: Int[Tensor, " n"], stride: Int[Tensor, " n"], keep: str = "last"
) -> tuple[Int[Tensor, " s"], Int[Tensor, " s"]]:
    """Choose the kept tokens of n spans. This is the only place that decides it.

    Args:
        start, end, stride: (n,), one per span. keep: see `sample`.

    Returns:
        Index (s,) of the span of each kept token, and its position (s,), ascending within a span.
    """
    counts = (end - start + stride - 1) // stride
    span = torch.repeat_interleave(torch.arange(len(counts)), counts)
    index = torch.arange(len(span)) - (torch.cumsum(counts, 0) - counts)[span]
    if keep == "first":
        return span, start[span] + index * stride[span]
    return span, end[span] - 1 - (counts[span] - 1 - index) * stride[span]
