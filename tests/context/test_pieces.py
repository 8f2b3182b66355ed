"""Pieces partition their text, end at sentence ends if there is one in time, and fill a budget best first."""

import json

import pytest
import torch
from helpers import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.context.pieces import Pieces, choose_pieces, cut_pieces, piece_size
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import ends_clause, ends_sentence, tokenize


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    gaps=st.integers(0, 7),
    every=st.integers(1, 40),
    pausing=st.integers(1, 40),
    least=st.integers(1, 20),
)
def test_pieces_partition_every_stretch(lengths, gaps, every, pausing, least):
    starts, ends, at = [], [], 0
    for length in lengths:
        starts.append(at)
        ends.append(at + length)
        at += length + gaps
    closes, pauses = torch.arange(at) % every == every - 1, torch.arange(at) % pausing == 0
    pieces = cut_pieces(closes, pauses, torch.tensor(starts), torch.tensor(ends), least)
    inside = torch.cat([torch.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    assert torch.equal(pieces.slots(), inside)
    assert int(pieces.lengths.max()) <= 2 * least
    for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True):
        if end not in ends:
            # Slots before which the piece may end: of a sentence, else of a clause, else the longest.
            near = torch.arange(start + least, min(start + 2 * least, len(closes)) + 1)
            sentence, clause = (near[marks[near - 1]].tolist() for marks in (closes, pauses))
            assert end == next(iter(sentence + clause), start + 2 * least)
    owner = pieces.owners(at)
    assert (owner[inside] >= 0).all() and int((owner >= 0).sum()) == len(inside)


def test_a_piece_ends_with_the_first_sentence_that_is_long_enough():
    closes = torch.zeros(30, dtype=torch.bool)
    closes[[3, 11, 13]] = True
    none = torch.zeros_like(closes)
    pieces = cut_pieces(closes, none, torch.tensor([0]), torch.tensor([30]), 10)
    assert list(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)) == [(0, 12), (12, 30)]


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_records_on_one_line_are_not_cut_apart(separators):
    """A text without an end of a sentence ends its pieces between records, also where these are lists and objects."""
    tokenizer = byte_tokenizer()
    for records in ({f"key {i}": f"value {i}" for i in range(50)}, [{"name": i} for i in range(90)]):
        text = json.dumps(records, separators=separators)
        ids = tokenize(tokenizer, text)
        marks = ends_sentence(tokenizer, ids[0]), ends_clause(tokenizer, ids[0])
        pieces = cut_pieces(*marks, torch.tensor([0]), torch.tensor([len(text)]))
        assert len(pieces) > 3
        assert all(text[end - 1] == "," for end in pieces.end.tolist()[:-1])


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
        cut_pieces(*torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0]), torch.tensor([3]), 0)
