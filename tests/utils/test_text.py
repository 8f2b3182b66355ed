"""Texts of any length are tokenised piece by piece, the next piece while the current one is read."""

import threading
from collections.abc import Iterator

import pytest
import torch
from helpers import byte_tokenizer
from transformers import AutoTokenizer

from sharedllm.utils.text import decode_pieces, tokenize_piece, tokenized


@pytest.fixture(scope="module")
def tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder)


@pytest.mark.parametrize("pieces", [[], ["A falcon sang.\n"], ["A falcon", " sang in\n", "the harbour: żółw"]], ids=len)
def test_tokens_are_those_of_each_piece(tokenizer, pieces):
    found = list(tokenized(tokenizer, pieces))
    assert [piece for piece, _, _, _ in found] == pieces
    for piece, ids, characters, _ in found:
        expected = tokenize_piece(tokenizer, piece)
        assert torch.equal(ids, expected[0]) and torch.equal(characters, expected[1])
    assert [last for _, _, _, last in found] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


def test_what_comes_next_is_tokenised_meanwhile(tokenizer):
    """The third piece is requested while the first is read, and nothing after it."""
    asked, third = [], threading.Event()

    def pieces() -> Iterator[str]:
        for number in range(5):
            asked.append(number)
            if number == 2:
                third.set()
            yield f"piece {number}\n"

    found = tokenized(tokenizer, pieces())
    assert asked == []
    next(found)
    assert third.wait(10) and asked[-1] == 2
    assert len(list(found)) == 4 and asked == [0, 1, 2, 3, 4]


def test_errors_of_the_pieces_are_raised_where_they_are_due(tokenizer):
    def pieces() -> Iterator[str]:
        yield from ("one\n", "two\n", "three\n")
        raise ValueError("a broken pipe")

    found = tokenized(tokenizer, pieces())
    assert [next(found)[0], next(found)[0]] == ["one\n", "two\n"]
    with pytest.raises(ValueError, match="a broken pipe"):
        next(found)


def test_nothing_runs_on_when_nobody_goes_on(tokenizer):
    before = set(threading.enumerate())
    found = tokenized(tokenizer, (f"piece {number}\n" for number in range(100)))
    next(found)
    found.close()
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    ("from_byte", "cuts", "pieces"),
    [
        (0, [0, 5, 6, 9], ["é\ufffd", "b", "\ufffd"]),
        (0, [0, 1, 5, 9, 9], ["", "é\ufffd", "b\ufffd", ""]),
        (1, [0, 1, 4, 8], ["", "\ufffd", "b\ufffd"]),
        (1, [0, 0, 5, 8], ["", "\ufffdb", "\ufffd"]),
        (2, [0, 3, 4, 7], ["\ufffd", "b", "\ufffd"]),
    ],
)
def test_a_replacement_character_of_the_text_is_no_incomplete_one(from_byte, cuts, pieces):
    """Each byte is a token; what follows other text may begin inside a character."""
    tokenizer = byte_tokenizer()
    ids = tokenizer("é\ufffdb\ufffd").input_ids[from_byte:]
    assert decode_pieces(tokenizer, ids, cuts, behind=from_byte > 0) == pieces


def test_a_replacement_character_of_one_token_or_more_is_read(tokenizer):
    ids = tokenizer("\ufffd a").input_ids
    assert decode_pieces(tokenizer, ids, [0, len(ids)], behind=True) == ["\ufffd a"]
