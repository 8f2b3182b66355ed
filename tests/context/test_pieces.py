"""Pieces partition their text, end at sentence ends if there is one in time, and fill a budget best first."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sharedllm import bundled_model
from sharedllm.context.pieces import RULE, Pieces, choose_pieces, cut_chunks, cut_pieces, piece_size
from sharedllm.context.stops import KINDS, Marks, Stops, stops
from sharedllm.reference_deep import _alone
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize


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
    pieces = cut_pieces(
        Stops(*kinds, *torch.zeros(3, at, dtype=torch.bool)), torch.tensor(starts), torch.tensor(ends), least
    )
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
    nowhere, closes = torch.zeros(2, 30, dtype=torch.bool)
    closes[[3, 11, 13]] = True
    pieces = cut_pieces(Stops(nowhere, closes, *[nowhere] * 4), torch.tensor([0]), torch.tensor([30]), 10)
    assert list(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)) == [(0, 12), (12, 30)]


# Tokens: a word, what ends a paragraph, a sentence, a clause, a line, a line before a blank one, what begins a heading, and a digit.
WORD, PARAGRAPH, SENTENCE, CLAUSE, LINE, BLANK, SIGN, DIGIT = range(8)
MARKS = Marks(
    (PARAGRAPH, BLANK), (PARAGRAPH, SENTENCE, LINE, BLANK), (CLAUSE,), (LINE, BLANK), (SIGN,), (SENTENCE, DIGIT)
)
BODY = [WORD] * 29 + [PARAGRAPH]


def lengths(*lines: list[int]) -> list[int]:
    ids = torch.tensor(joined(list(lines)))
    return cut_chunks(MARKS, ids, len(ids), 40).lengths.tolist()


@pytest.mark.parametrize(
    ("line", "after", "lengths_of_pieces"),
    [
        ([WORD] * 4 + [LINE], BODY, [30, 35]),  # a line right above its text
        ([SIGN] + [WORD] * 4 + [BLANK], [WORD] * 5 + [LINE], [30, 12]),  # or one with a sign
        ([SIGN] + [WORD] * 30 + [SENTENCE, BLANK], BODY, [30, 63]),
        ([WORD] * 4 + [BLANK], BODY, [65]),  # what stands between blank lines may belong to what is above it
        ([WORD] * 4 + [LINE, LINE], BODY, [66]),  # also where a blank line is two tokens
        ([WORD] * 4 + [LINE], [WORD] * 13 + [LINE], [49]),  # lines of a paragraph are about as long as each other
        ([WORD] * 4 + [SENTENCE, LINE], BODY, [66]),  # a sentence is no heading
        ([WORD] * 16 + [LINE], [WORD] * 60 + [PARAGRAPH], [47, 61]),  # nor is a long line
        ([LINE], BODY, [61]),  # nor is nothing
        ([LINE, LINE, LINE] + [WORD] * 4 + [LINE], BODY, [33, 35]),
        ([WORD] * 4 + [LINE, SIGN, LINE], BODY, [67]),  # a sign inside a paragraph is none
    ],
)
def test_a_piece_ends_before_a_heading(line, after, lengths_of_pieces):
    assert lengths(BODY, line, after) == lengths_of_pieces


def test_sections_that_are_too_short_are_joined():
    heading = [WORD] * 4 + [LINE]
    assert lengths(BODY, heading, BODY, heading) == [30, 40]  # a heading alone, at the end of what is read at once
    assert lengths([WORD, PARAGRAPH], heading, BODY) == [37]


def test_a_list_of_headings_is_one_section():
    """The first and the last one begin sections: the last has text of its own."""
    for end in ([BLANK], [LINE, LINE]):
        entry = [SIGN] + [WORD] * 14 + end
        size = len(entry)
        assert lengths(BODY, *[entry] * 5, BODY) == [30, 4 * size, size + 30]
        assert lengths(*[entry] * 2, BODY) == [size, size + 30]


def joined(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


@given(
    ids=st.lists(
        st.sampled_from([[WORD]] * 4 + [[n] for n in range(8)] + [[DIGIT, SENTENCE, DIGIT]] * 3), max_size=150
    ).map(joined),
    chunk=st.integers(2, 60),
    window=st.integers(1, 100),
)
def test_pieces_are_those_of_the_loops(ids, chunk, window):
    pieces = cut_chunks(MARKS, torch.tensor(ids, dtype=torch.long), chunk, piece_size(window))
    config = SimpleNamespace(chunk_size=chunk, window=window, **{name: getattr(MARKS, name) for name in KINDS})
    assert list(zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)) == _alone(config, ids)


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
    ("text", "first"),
    [
        ("It was 5.6 miles, or less. More", "It was 5.6 miles,"),
        ("In 1995. 6 men left the town.", "In 1995."),
        ("See 5.\n6 men left the town.", "See 5."),
    ],
)
def test_no_piece_ends_inside_a_number(text, first):
    """A full stop right before a digit ends no sentence, any other one does."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    ids = tokenize(tokenizer, text)[0]
    pieces = cut_pieces(stops(tokenizer, ids), torch.tensor([0]), torch.tensor([len(ids)]), 5)
    assert len(pieces) > 1 and tokenizer.decode(ids[: pieces.end[0]]) == first


@pytest.mark.parametrize(
    ("token", "kinds"),
    [
        (".\n\n", [0, 1]),
        ("\n \n", [0, 1, 3]),
        (" },\n", [0, 1]),
        ("]\n", [0, 1, 3]),
        ("\n", [1, 3]),
        (":\n", [1, 3]),
        (".\n", [1]),
        (",\n", [1]),
        ('."', [1]),
        (" ”.", [1]),
        ('",', [2]),
        ("},{", [2]),
        ("；", [2]),
        ("}", []),
        (" a", []),
        ("##", [4]),
        ("#a", []),
        (":", []),
        (".", [1, 5]),
        ("56", [5]),
        (" 5", []),
    ],
)
def test_what_a_token_ends(token, kinds):
    """A paragraph or a record; a sentence or a line; a clause or an item of a list; a line but no sentence; what begins
    a heading; what numbers are written with."""

    class OneToken:
        def batch_decode(self, ids):
            return [token] * len(ids)

    found, none = stops(OneToken(), torch.tensor([5])), stops(OneToken(), torch.tensor([-1]))
    assert [n for n, kind in enumerate(KINDS) if getattr(found, kind)[0]] == kinds
    assert not any(getattr(none, kind)[0] for kind in KINDS)


def test_best_first_in_the_order_of_the_text():
    pieces = Pieces(torch.tensor([0, 10, 30, 35]), torch.tensor([10, 30, 35, 45]))
    scores = torch.tensor([2.0, 3.0, 1.0, -torch.inf])
    assert choose_pieces(scores, pieces, 30).tolist() == [0, 1]
    assert choose_pieces(scores, pieces, 25).tolist() == [1, 2]  # if one does not fit, the next one may
    assert choose_pieces(scores, pieces, 1000).tolist() == [0, 1, 2]  # nothing with score −∞, whatever the budget
    with pytest.raises(UserError, match="budget=19 is less than the 20 tokens of the longest piece: give at least 20"):
        choose_pieces(scores, pieces, 19)
    with pytest.raises(UserError, match="budget=19 "):  # whichever is the best one
        choose_pieces(-scores, pieces, 19)


def test_several_pieces_fit_into_a_part_of_every_window():
    assert [piece_size(window) for window in (4, 64, 512, 32_768)] == [1, 8, 64, 96]
    with pytest.raises(UserError, match="least=0"):
        cut_chunks(Marks(), torch.zeros(3, dtype=torch.long), 3, 0)


def test_the_rule_has_a_version():
    """If this fails because pieces are to end elsewhere, raise `RULE`: memories of before are then refused, and not mixed with new ones."""
    random = torch.Generator().manual_seed(0)
    # Models that were extended before numbers were kept whole name no tokens of theirs.
    marks = Stops(*(torch.rand(20_000, generator=random) < share for share in (0.05, 0.01, 0.05, 0.02, 0.5, 0)))
    cut = cut_pieces(marks, torch.tensor([0, 9000]), torch.tensor([9000, 20_000]))
    assert (RULE, len(cut), int((cut.start * torch.arange(len(cut))).sum())) == (1, 334, 740_882_119)


def test_a_digit_after_the_full_stop_is_enough():
    """Where numbers are tokens with the space before them, as " 61" of GPT-2's kind, they are no digits to begin with."""
    closing, numeric = torch.tensor([False, True, False, True]), torch.tensor([False, True, True, True])
    nowhere = torch.zeros(4, dtype=torch.bool)
    assert Stops(nowhere, closing, nowhere, nowhere, nowhere, numeric).points().tolist() == [False, True, False, False]
