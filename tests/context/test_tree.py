"""Properties of context trees: kept tokens, strides, and no token is lost or covered twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.context.tree import (
    Nodes,
    choose_right,
    chunks,
    node_strides,
    preserved_nodes,
    sample,
    split,
    split_point,
)

CHUNK_SIZES = st.integers(2, 70)
HEIGHTS = st.integers(1, 5)
NOISES = st.sampled_from([0.0, 0.1, 0.2, 0.49, 3.0])
SEEDS = st.integers(0, 9999)
STRIDES = (16, 8, 4, 2, 1)


@st.composite
def text_lengths(draw, chunk_size: int) -> list[int]:
    """Lengths of one to four texts, including lengths around a chunk border and 0."""
    borders = [0, 1, 2, chunk_size - 1, chunk_size, chunk_size + 1, 3 * chunk_size]
    length = st.one_of(st.sampled_from(borders), st.integers(0, 4 * chunk_size))
    return draw(st.lists(length, min_size=1, max_size=4))


@st.composite
def trees(draw) -> tuple[list[int], int, int, Nodes]:
    """Text lengths, chunk size, height, and the preserved nodes of trees that chose at random."""
    chunk_size, height = draw(CHUNK_SIZES), draw(HEIGHTS)
    lengths = draw(text_lengths(chunk_size))
    generator = torch.Generator().manual_seed(draw(SEEDS))

    def choose(left: Nodes, right: Nodes) -> torch.Tensor:
        return torch.rand(len(left), generator=generator) < 0.5

    roots = chunks(torch.tensor(lengths), chunk_size)
    chosen = draw(st.sampled_from([choose, choose_right]))
    return lengths, chunk_size, height, preserved_nodes(roots, height, chosen, draw(NOISES), generator)


def spans(nodes: Nodes) -> list[tuple[int, int, int, int]]:
    """(row, chunk, start, end) of each node."""
    return list(zip(*(t.tolist() for t in (nodes.row, nodes.chunk, nodes.start, nodes.end)), strict=True))


@given(data=st.data(), chunk_size=CHUNK_SIZES)
def test_chunks_cut_texts_from_their_beginning(data, chunk_size):
    lengths = data.draw(text_lengths(chunk_size))
    expected = [
        (row, n, n * chunk_size, min((n + 1) * chunk_size, length))
        for row, length in enumerate(lengths)
        for n in range(-(-length // chunk_size))
    ]
    roots = chunks(torch.tensor(lengths), chunk_size)
    assert spans(roots) == expected
    assert not roots.level.any()
    assert {getattr(roots, name).dtype for name in ("row", "chunk", "start", "length", "level")} == {torch.int64}


@given(trees())
def test_preserved_nodes_partition_every_chunk(tree):
    lengths, chunk_size, _, nodes = tree
    ends = [0] * len(lengths)
    for row, chunk, start, end in spans(nodes):
        assert start == ends[row], "a gap or an overlap"
        assert start < end, "an empty node"
        assert start // chunk_size == (end - 1) // chunk_size == chunk, "a node outside its chunk"
        ends[row] = end
    assert ends == lengths
    assert nodes.row.tolist() == sorted(nodes.row.tolist())


@given(trees())
def test_one_node_stays_at_each_level_and_two_at_the_last(tree):
    _, _, height, nodes = tree
    levels: dict[tuple[int, int], list[int]] = {}
    for row, chunk, level in zip(nodes.row.tolist(), nodes.chunk.tolist(), nodes.level.tolist(), strict=True):
        levels.setdefault((row, chunk), []).append(level)
    for (row, chunk), found in levels.items():
        found.sort()
        if found[-1] == height and found[-2:] == [height, height]:
            assert found == [*range(1, height), height, height]
            continue
        # A tree that ran out of tokens: its selected node of one token is preserved, like its sibling.
        deepest = found[-1]
        assert deepest < height
        assert found == ([0] if deepest == 0 else [*range(1, deepest), deepest, deepest])
        tree_nodes = nodes[(nodes.row == row) & (nodes.chunk == chunk)]
        assert 1 in tree_nodes.length[tree_nodes.level == deepest].tolist()


def test_the_default_chunk():
    """512 | 256 | 128 | 128 tokens at 16, 8, 4, 4, so 32 + 32 + 32 + 32 are kept: one in eight."""
    nodes = preserved_nodes(chunks(torch.tensor([1024]), 1024), 3)
    assert nodes.start.tolist() == [0, 512, 768, 896]
    assert nodes.length.tolist() == [512, 256, 128, 128]
    assert nodes.level.tolist() == [1, 2, 3, 3]
    assert node_strides(nodes, (16, 8, 4)).tolist() == [16, 8, 4, 4]
    assert torch.bincount(sample(nodes, (16, 8, 4)).node).tolist() == [32, 32, 32, 32]


def test_the_left_child_can_be_selected():
    def choose_left(left: Nodes, right: Nodes) -> torch.Tensor:
        return torch.zeros(len(left), dtype=torch.bool)

    nodes = preserved_nodes(chunks(torch.tensor([1024]), 1024), 3, choose_left)
    assert nodes.length.tolist() == [128, 128, 256, 512]
    assert nodes.level.tolist() == [3, 3, 2, 1]


def test_choose_sees_siblings_and_each_tree_follows_its_own_choice():
    asked = []

    def choose(left: Nodes, right: Nodes) -> torch.Tensor:
        assert torch.equal(left.end, right.start)
        for name in ("row", "chunk", "level"):
            assert torch.equal(getattr(left, name), getattr(right, name))
        asked.append(left.level.tolist())
        return left.chunk % 2 == 0

    nodes = preserved_nodes(chunks(torch.tensor([32]), 16), 3, choose)
    assert asked == [[1, 1], [2, 2]], "the last level has nothing to choose"
    assert nodes.length.tolist() == [8, 4, 2, 2, 2, 2, 4, 8]
    assert nodes.level.tolist() == [1, 2, 3, 3, 3, 3, 2, 1]


def test_trees_without_chunks():
    nodes = preserved_nodes(chunks(torch.tensor([0, 0]), 16), 3)
    assert len(nodes) == 0
    assert len(sample(nodes, (4, 2, 1))) == 0


@given(lengths=st.lists(st.integers(2, 5000), min_size=1, max_size=5), share=st.floats(-4, 4))
def test_split_point_leaves_no_child_empty(lengths, share):
    length = torch.tensor(lengths)
    left = split_point(length, share * length)
    assert ((left >= 1) & (left <= length - 1)).all()
    inside = (length / 2 - share * length).floor().long()
    possible = (inside >= 1) & (inside <= length - 1)
    assert torch.equal(left[possible], inside[possible])
    assert split_point(length).tolist() == [n // 2 for n in lengths]


@given(data=st.data(), chunk_size=CHUNK_SIZES, share=st.floats(-1, 1))
def test_children_are_their_parent(data, chunk_size, share):
    roots = chunks(torch.tensor(data.draw(text_lengths(chunk_size))), chunk_size)
    roots = roots[roots.length >= 2]
    left, right = split(roots, share * roots.length)
    assert torch.equal(left.start, roots.start)
    assert torch.equal(left.end, right.start)
    assert torch.equal(right.end, roots.end)
    for child in (left, right):
        assert torch.equal(child.row, roots.row)
        assert torch.equal(child.chunk, roots.chunk)
        assert torch.equal(child.level, roots.level + 1)


@given(chunk_size=CHUNK_SIZES, height=HEIGHTS, seed=SEEDS)
def test_noise_splits_whole_chunks_alike(chunk_size, height, seed):
    roots = chunks(torch.tensor([3 * chunk_size, chunk_size]), chunk_size)

    def grow() -> Nodes:
        return preserved_nodes(roots, height, noise=0.2, generator=torch.Generator().manual_seed(seed))

    nodes = grow()
    assert spans(nodes) == spans(grow()), "depends only on the generator"
    shapes = [nodes[(nodes.row == row) & (nodes.chunk == n)] for row, n in ((0, 0), (0, 1), (0, 2), (1, 0))]
    assert all(torch.equal(shape.length, shapes[0].length) for shape in shapes)


def test_noise_has_the_spread_asked_for():
    """The first split of a chunk of l tokens is at l/2 on average, with a standard deviation of noise · l."""
    generator, length = torch.Generator().manual_seed(0), 10_000
    roots = chunks(torch.tensor([length]), length)
    draws = [int(preserved_nodes(roots, 1, noise=0.1, generator=generator).length[0]) for _ in range(2000)]
    points = torch.tensor(draws) / length
    assert float(points.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(points.std()) == pytest.approx(0.1, abs=0.01)


@given(trees())
def test_samples_are_the_last_of_each_stride(tree):
    _, _, height, nodes = tree
    strides = STRIDES[:height]
    samples = sample(nodes, strides)
    expected = [
        (index, row, chunk, position, stride)
        for index, ((row, chunk, start, end), stride) in enumerate(
            zip(spans(nodes), node_strides(nodes, strides).tolist(), strict=True)
        )
        for position in reversed(range(end - 1, start - 1, -stride))
    ]
    fields = ("node", "row", "chunk", "position", "stride")
    assert list(zip(*(getattr(samples, name).tolist() for name in fields), strict=True)) == expected
    places = [(row, position) for _, row, _, position, _ in expected]
    assert places == sorted(set(places)), "sorted by text and position, without repetition"


@given(trees())
def test_samples_count_and_last_tokens(tree):
    _, _, height, nodes = tree
    strides = STRIDES[:height]
    samples = sample(nodes, strides)
    own = node_strides(nodes, strides)
    counts = torch.bincount(samples.node, minlength=len(nodes))
    assert torch.equal(counts, (nodes.length / own).ceil().long())
    last = set(zip(samples.node.tolist(), samples.position.tolist(), strict=True))
    assert last >= set(enumerate((nodes.end - 1).tolist()))


@given(trees())
def test_strides_follow_levels(tree):
    _, _, height, nodes = tree
    expected = [STRIDES[max(level, 1) - 1] for level in nodes.level.tolist()]
    assert node_strides(nodes, STRIDES[:height]).tolist() == expected


@given(trees(), SEEDS)
def test_sorted_undoes_any_order(tree, seed):
    nodes = tree[-1]
    order = torch.randperm(len(nodes), generator=torch.Generator().manual_seed(seed))
    assert spans(nodes[order].sorted()) == spans(nodes)
    assert spans(Nodes.cat([nodes[order[:2]], nodes[order[2:]]]).sorted()) == spans(nodes)
