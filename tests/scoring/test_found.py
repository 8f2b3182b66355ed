"""Whether a text seems to answer a question: by words, by a sentence encoder besides, in short and long texts."""

import numpy as np
import pytest
import torch

from sharedllm.scoring.found import seems_answered


def of(pieces: int, best: float, rest: float = 0.0) -> np.ndarray:
    """(n,) one value for the first piece, another for all others."""
    return np.array([best] + [rest] * (pieces - 1))


def all_of(pieces: int) -> np.ndarray:
    return np.ones(pieces, dtype=bool)


@pytest.mark.parametrize(
    ("pieces", "least"), [(1, 0.3), (64, 0.3), (128, 0.34), (1024, 0.46), (2048, 0.5), (10**5, 0.5)]
)
def test_more_words_are_needed_in_a_longer_text(pieces, least):
    assert seems_answered(of(pieces, least + 0.001), all_of(pieces)) is True
    assert seems_answered(of(pieces, least - 0.001), all_of(pieces)) is False


def test_a_question_without_words_is_not_known():
    assert seems_answered(None, all_of(3)) is None
    assert seems_answered(None, all_of(3), torch.ones(3)) is None


def test_what_only_quotes_the_question_is_no_answer():
    free = np.array([False, True, True])
    assert seems_answered(of(3, 1.0), free) is False
    assert seems_answered(of(3, 1.0, 0.4), free) is True
    assert seems_answered(of(3, 1.0), free, torch.tensor([1.0, 0.0, 0.0])) is False


def test_an_encoder_says_as_much_as_words():
    """One piece has to have both; cosines that are high everywhere count for nothing."""
    near = torch.from_numpy(of(64, 0.6))
    assert seems_answered(of(64, 0.2), all_of(64), near) is True and seems_answered(of(64, 0.2), all_of(64)) is False
    assert seems_answered(of(64, 0.4), all_of(64), torch.zeros(64)) is False
    assert seems_answered(of(64, 0.2), all_of(64), near.flip(0)) is False, "another piece is near"
    assert seems_answered(of(64, 0.2), all_of(64), torch.full((64,), 0.8)) is False
    alike = torch.from_numpy(of(64, 0.92, 0.8))
    assert seems_answered(of(64, 0.2), all_of(64), alike) is True, "nearer by three fifths of what is left"


def test_a_short_text_has_no_mean_to_speak_of():
    """What is nearest in one piece, or in three alike ones, counts as it is."""
    for pieces in (1, 3):
        near = torch.full((pieces,), 0.6)
        assert seems_answered(of(pieces, 0.3, 0.3), all_of(pieces), near) is True
        assert seems_answered(of(pieces, 0.3, 0.3), all_of(pieces), near / 6) is False
