"""The word index of documents against bm25s, and joined indices against one of all documents."""

import random

import numpy as np
import pytest

from sharedllm.corpus.terms import Terms, counted
from sharedllm.scoring.words import WordIndex

WORDS = "falcon silver harbour captain lantern travelled travels 7 C++ Straße 東京都 naïve".split()


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(count)]


@pytest.mark.parametrize("question", ["falcon travels", "Which captain of the 東京 harbour?", "C++", "nothing of it"])
def test_scores_are_those_of_bm25s(question):
    written = texts(30)
    ours = Terms.of([counted([text]) for text in written]).scores(question)
    np.testing.assert_allclose(ours.numpy(), WordIndex(written).scores(question).numpy(), rtol=1e-4, atol=1e-6)


def test_parts_joined_are_the_whole():
    written = texts(20, seed=1)
    counts = [counted([text]) for text in written]
    whole, parts = Terms.of(counts), [Terms.of(counts[:3]), Terms.of([]), Terms.of(counts[3:11]), Terms.of(counts[11:])]
    joined = Terms.joined(parts)
    for name in ("terms", "starts", "documents", "counts", "lengths"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name), err_msg=name)


def test_pieces_cut_between_words_count_as_one_text():
    assert counted(["falcon silver\n", "falcon"]) == counted(["falcon silver\nfalcon"])


def test_tensors_hold_all_of_it():
    index = Terms.of([counted([text]) for text in texts(5)])
    again = Terms.from_tensors(index.tensors())
    assert again.scores("silver falcon").equal(index.scores("silver falcon"))
    assert index.scores("silver falcon").max() > 0


def test_documents_without_words():
    index = Terms.of([counted(["falcon"]), counted(["?!"])])
    assert index.scores("falcon")[0] > 0 and index.scores("falcon")[1] == 0
    assert len(Terms.of([]).scores("falcon")) == 0
