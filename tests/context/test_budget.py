"""Selection within a budget: never above it, always a partition, best first, equal to slow loops."""

import heapq
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.context.budget import kept_within
from sharedllm.utils.errors import UserError


def within(scores, chunk_size, strides, budget, gist=0.5):
    starts = torch.arange(0, len(scores), chunk_size)
    return kept_within(scores, (starts, (starts + chunk_size).clamp(max=len(scores))), strides, budget, gist)


def slow(scores: list[float], chunk_size: int, strides: list[int], budget: int, gist: float):
    """Best-first expansion with a queue, node by node; a cut is a list of (start, end, stride)."""

    def size(start, end, depth):
        return -(-(end - start) // strides[depth]) if rank(start, end) > -float("inf") else 0

    def rank(start, end):
        return max(scores[start:end], default=-float("inf"))

    roots = [(s, min(s + chunk_size, len(scores))) for s in range(0, len(scores), chunk_size)]
    first = sum(size(*root, 0) for root in roots) <= gist * budget
    queue = [(-float("inf") if first and rank(*root) > -float("inf") else -rank(*root), 0, *root) for root in roots]
    heapq.heapify(queue)
    cut, spent = set(), 0
    while queue:
        worst, step, start, end = heapq.heappop(queue)
        if worst == float("inf"):
            break
        middle = start + (end - start) // 2
        if step == 0:
            made, cost = [(start, end, 0)], size(start, end, 0)
        else:
            made = [(start, middle, step), (middle, end, step)]
            cost = sum(size(*node) for node in made) - size(start, end, step - 1)
        if spent + cost > budget:
            break
        spent += cost
        cut -= {(start, end, step - 1)}
        for a, b, depth in made:
            if rank(a, b) > -float("inf"):
                cut.add((a, b, depth))
            if depth + 1 < len(strides):
                heapq.heappush(queue, (-rank(a, b), depth + 1, a, b))
    kept = {}
    for start, end, depth in cut:
        kept |= dict.fromkeys(range(end - 1, start - 1, -strides[depth]), strides[depth])
    return sorted(kept), [kept[p] for p in sorted(kept)]


@given(
    length=st.integers(0, 150),
    chunk_size=st.sampled_from([2, 5, 16, 32]),
    strides=st.sampled_from([[1], [4, 1], [8, 4, 2], [8, 4, 2, 1], [3, 2, 1, 1, 1]]),
    budget=st.integers(1, 200),
    gist=st.sampled_from([0.0, 0.5, 1.0]),
    worth=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 5),
)
def test_equals_slow_loops(length, chunk_size, strides, budget, gist, worth, seed):
    """A queue orders equal scores differently; they are rare in practice, so scores are drawn without ties."""
    scores = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).double()
    scores[scores >= worth * length] = -torch.inf
    expected = slow(scores.tolist(), chunk_size, strides, budget, gist)
    if not expected[0] and scores.isfinite().any():
        with pytest.raises(UserError, match=f"budget={budget} is less than"):
            within(scores, chunk_size, strides, budget, gist)
        return
    positions, kept_at = within(scores, chunk_size, strides, budget, gist)
    assert (positions.tolist(), kept_at.tolist()) == expected
    assert len(positions) <= budget


def test_budget_for_everything_keeps_everything():
    positions, strides = within(torch.rand(100), 16, [8, 4, 2, 1], 100)
    assert positions.tolist() == list(range(100)) and set(strides.tolist()) == {1}


def test_gist_first():
    """If the budget allows, something of every chunk is kept and the best place is whole; otherwise only the best place
    is kept."""
    scores = torch.zeros(1024)
    scores[700] = 1.0
    positions, strides = within(scores, 64, [16, 8, 4, 1], 200)
    assert all(any(a <= p < a + 64 for p in positions.tolist()) for a in range(0, 1024, 64))
    fine = positions[strides == 1].tolist()
    assert set(range(696, 704)) <= set(fine) and all(640 <= p < 704 for p in fine if p not in range(640))
    near, _ = within(scores, 64, [16, 8, 4, 1], 40, gist=0.1)
    assert 700 in near.tolist() and len(near) <= 40


@pytest.mark.parametrize("gist", [0.0, 0.5])
def test_what_is_worth_no_place_stays_out(gist):
    """Not even at a coarse stride, however large the budget: coarse tokens take attention from the found ones."""
    scores = torch.full((1024,), -torch.inf)
    scores[700] = 1.0
    positions, strides = within(scores, 64, [16, 8, 4, 1], 500, gist)
    assert positions.tolist() == list(range(696, 704)) and set(strides.tolist()) == {1}
    nothing, _ = within(torch.full((1024,), -torch.inf), 64, [16, 8, 4, 1], 500, gist)
    assert len(nothing) == 0


def test_more_budget_never_loses_a_fine_place():
    scores = torch.rand(512, generator=torch.Generator().manual_seed(0))
    for small, large in pairwise([40, 80, 160, 320]):
        (a, fine_a), (b, fine_b) = (within(scores, 64, [8, 4, 1], n, gist=0.0) for n in (small, large))
        assert set(a[fine_a == 1].tolist()) <= set(b[fine_b == 1].tolist())


def test_places_between_chunks_are_no_tokens():
    """Two chunks that do not fill their slots give the same as adjacent ones."""
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0))
    starts, ends = torch.tensor([0, 16, 32]), torch.tensor([16, 21, 40])
    dense = torch.cat([scores[:21], scores[32:]])
    close = torch.tensor([0, 16, 21]), torch.tensor([16, 21, 29])
    for budget in (4, 5, 12, 20, 29):
        places, strides = kept_within(scores, (starts, ends), [4, 2, 1], budget)
        expected, expected_strides = kept_within(dense, close, [4, 2, 1], budget)
        assert torch.where(places >= 32, places - 11, places).tolist() == expected.tolist()
        assert strides.tolist() == expected_strides.tolist()


@given(
    length=st.integers(1, 120),
    strides=st.sampled_from([[4, 1], [8, 4, 2], [8, 4, 2, 1]]),
    budget=st.integers(4, 60),
    seed=st.integers(0, 5),
)
def test_keep_first(length, strides, budget, seed):
    """The same nodes are kept at the same strides, with the first token of each stride, as without a budget."""
    scores = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).double()
    starts = torch.arange(0, length, 16)
    ends = (starts + 16).clamp(max=length)
    last, strides_last = kept_within(scores, (starts, ends), strides, budget)
    first, strides_first = kept_within(scores, (starts, ends), strides, budget, keep="first")
    assert strides_first.tolist() == strides_last.tolist()
    # The first of r tokens is at most r − 1 before the last, and every chunk with kept tokens keeps its first token.
    assert ((last - first >= 0) & (last - first < strides_last)).all()
    begun = {int(place) // 16 * 16 for place in first}
    assert begun <= set(first.tolist())


def test_a_budget_in_which_no_part_fits_names_the_least_that_does():
    scores = torch.rand(64)
    with pytest.raises(UserError, match="budget=1 is less than the 4 tokens of one part of the text: give at least 4"):
        within(scores, 16, [4, 1], 1)
    assert len(within(scores, 16, [4, 1], 4)[0]) == 4


def test_no_budget():
    with pytest.raises(ValueError, match="budget=0 keeps nothing"):
        within(torch.rand(4), 2, [1], 0)
