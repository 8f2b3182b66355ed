"""Pieces partition their text, end at sentence ends if there is one in time, and fill a budget best first."""

import json

import pytest
import torch
from helpers import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.context.pieces import Pieces, choose_pieces, cut_pieces, piece_size
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import stops, tokenize


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    gaps=st.integers(0, 7),
    every=st.integers(1, 40),
    pausing=st.integers(1, 40),
    parting=st.integers(1, 40),
    least=st.integers(1, 20),
)
def test_pieces_partition_every_stretch(lengths, gaps, every, pausing, parting, least):
    starts, ends, at = [], [], 0
    for length in lengths:
        starts.append(at)
        ends.append(at + length)
        at += length + gaps
    kinds = [torch.arange(at) % n == n - 1 for n in (parting, every, pausing)]
    pieces = cut_pieces(kinds, torch.tensor(starts), torch.tensor(ends), least)
    inside = torch.cat([torch.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    assert torch.equal(pieces.slots(), inside)
    assert int(pieces.lengths.max()) <= 2 * least
    for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True):
        if end not in ends:
            # Slots before which the piece may end, best first, else the longest.
            near = torch.arange(start + least, min(start + 2 * least, at) + 1)
            found = [stop for marks in kinds for stop in near[marks[near - 1]].tolist()]
            assert end == next(iter(found), start + 2 * least)
    owner = pieces.owners(at)
    assert (owner[inside] >= 0).all() and int((owner >= 0).sum()) == len(inside)


def test_a_piece_ends_with_the_first_sentence_that_is_long_enough():
    closes = torch.zeros(30, dtype=torch.bool)
    closes[[3, 11, 13]] = True
    pieces = cut_pieces([closes], torch.tensor([0]), torch.tensor([30]), 10)
    assert list(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)) == [(0, 12), (12, 30)]


def cut(text: str, least: int = 96) -> list[str]:
    """The pieces of a text, one token a character."""
    ids = tokenize(byte_tokenizer(), text)[0]
    pieces = cut_pieces(stops(byte_tokenizer(), ids), torch.tensor([0]), torch.tensor([len(ids)]), least)
    return [text[start:end] for start, end in zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)]


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_records_on_one_line_are_not_cut_apart(separators):
    """A text without an end of a sentence ends its pieces between records, also where these are lists and objects."""
    for records in ({f"key {i}": f"value {i}" for i in range(50)}, [{"name": i} for i in range(90)]):
        pieces = cut(json.dumps(records, separators=separators))
        assert len(pieces) > 3 and all(piece.endswith(",") for piece in pieces[:-1])


@pytest.mark.parametrize(
    ("token", "kinds"),
    [
        (".\n\n", [0, 1]),
        ("\n \n", [0, 1]),
        (" },\n", [0, 1]),
        ("]\n", [0, 1]),
        ("\n", [1]),
        (",\n", [1]),
        ('."', [1]),
        (" ”.", [1]),
        ('",', [2]),
        ("},{", [2]),
        ("；", [2]),
        ("}", []),
        (" a", []),
        (":", []),
    ],
)
def test_what_a_token_ends(token, kinds):
    """A paragraph or a record; a sentence or a line; a clause or an item of a list."""

    class OneToken:
        def batch_decode(self, ids):
            return [token] * len(ids)

    assert [kind for kind, found in enumerate(stops(OneToken(), torch.tensor([5]))) if found[0]] == kinds
    assert not any(found[0] for found in stops(OneToken(), torch.tensor([-1])))


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
        cut_pieces([torch.zeros(3, dtype=torch.bool)], torch.tensor([0]), torch.tensor([3]), 0)
