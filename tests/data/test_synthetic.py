"""Needles: facts with digits as answers, whose keys never occur in another split."""

import random

import pytest

from sharedllm.data.synthetic import ADJECTIVES, NOUNS, make_needles, needle_keys

SPLITS = ("train", "validation", "test")


def test_splits_are_disjoint_and_complete():
    keys = {split: set(needle_keys(split)) for split in SPLITS}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == len(ADJECTIVES) * len(NOUNS)
    for share, split in zip((0.8, 0.1, 0.1), SPLITS, strict=True):
        assert len(keys[split]) == pytest.approx(share * len(ADJECTIVES) * len(NOUNS), rel=0.1)


def test_every_word_occurs_in_every_split():
    """Pairs are held out: a model has seen both words of a key before."""
    for split in SPLITS:
        pairs = [key.split() for key in needle_keys(split)]
        assert {a for a, _ in pairs} == set(ADJECTIVES) and {n for _, n in pairs} == set(NOUNS)


def test_words_are_not_repeated():
    assert len(set(ADJECTIVES)) == len(ADJECTIVES) and len(set(NOUNS)) == len(NOUNS)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("digits", [1, 5])
def test_needles(split, digits):
    needles = make_needles(random.Random(0), 50, split, digits)
    assert len({needle.key for needle in needles}) == 50
    assert {needle.key for needle in needles} <= set(needle_keys(split))
    for needle in needles:
        assert len(needle.answer) == digits and needle.answer.isascii() and needle.answer.isdigit()
        assert needle.statement == f" The secret code of the {needle.key} is {needle.answer}."
        assert needle.answer not in needle.question and needle.key in needle.question
        # Question and answer together give the words of the statement.
        assert (needle.question + needle.answer).endswith(needle.statement[:-1])


def test_seeds():
    first, again, other = (make_needles(random.Random(seed), 5) for seed in (1, 1, 2))
    assert first == again != other
