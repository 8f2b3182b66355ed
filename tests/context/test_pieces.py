"""Pieces partition their text, end at sentence ends if there is one in time, and fill a budget best first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.context.pieces import Pieces, choose_pieces, cut_pieces, piece_size
from sharedllm.utils.errors import UserError


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    gaps=st.integers(0, 7),
    every=st.integers(1, 40),
    least=st.integers(1, 20),
)
def test_pieces_partition_every_stretch(lengths, gaps, every, least):
    starts, ends, at = [], [], 0
    for length in lengths:
        starts.append(at)
        ends.append(at + length)
        at += length + gaps
    closes = torch.arange(at) % every == every - 1
    pieces = cut_pieces(closes, torch.tensor(starts), torch.tensor(ends), least)
    inside = torch.cat([torch.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    assert torch.equal(pieces.slots(), inside)
    assert int(pieces.lengths.max()) <= 2 * least
    for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True):
        if end not in ends:
            full = end - start == 2 * least
            assert full or (bool(closes[end - 1]) and end - start >= least)
    owner = pieces.owners(at)
    assert (owner[inside] >= 0).all() and int((owner >= 0).sum()) == len(inside)


def test_a_piece_ends_with_the_first_sentence_that_is_long_enough():
    closes = torch.zeros(30, dtype=torch.bool)
    closes[[3, 11, 13]] = True
    pieces = cut_pieces(closes, torch.tensor([0]), torch.tensor([30]), 10)
    assert list(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)) == [(0, 12), (12, 30)]


def test_best_first_in_the_order_of_the_text():
    pieces = Pieces(torch.tensor([0, 10, 30, 35]), torch.tensor([10, 30, 35, 45]))
    scores = torch.tensor([2.0, 3.0, 1.0, -torch.inf])
    assert choose_pieces(scores, pieces, 30).tolist() == [0, 1]
    assert choose_pieces(scores, pieces, 25).tolist() == [1, 2]  # if one does not fit, the next one may
    assert choose_pieces(scores, pieces, 1000).tolist() == [0, 1, 2]  # nothing with score −∞, whatever the budget
    with pytest.raises(UserError, match="budget=19 is less than the 20 tokens of one piece"):
        choose_pieces(scores, pieces, 19)


def test_several_pieces_fit_into_a_part_of_every_window():
    assert [piece_size(window) for window in (4, 64, 512, 32_768)] == [1, 8, 64, 96]
    with pytest.raises(UserError, match="least=0"):
        cut_pieces(torch.zeros(3, dtype=torch.bool), torch.tensor([0]), torch.tensor([3]), 0)
