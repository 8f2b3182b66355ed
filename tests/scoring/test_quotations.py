"""A quotation of a question has all of its words and not its answer: lexical scores leave it out."""

import pytest
import torch
from torch import Tensor

from sharedllm.scoring.bm25 import BM25Score, in_whole_words
from sharedllm.scoring.focus import FocusScore
from sharedllm.scoring.quotations import quotation
from sharedllm.utils.checkpoints import load_tokenizer
from sharedllm.utils.text import decode, tokenize

TOKENIZER = load_tokenizer("tiny")
FILLER = "The sea was calm that day and nobody came to the harbour at all. " * 6
QUESTION = "What is the password for the green tower?"
QUOTED = 'Somebody once asked: "What is the password\nfor the green tower?" and nobody knew. '
FACT = "To enter the green tower one says 48213 at the gate. "


def ids(text: str) -> Tensor:
    return tokenize(TOKENIZER, text)[0].int()


def best(text: str, kind: type[BM25Score] = FocusScore) -> str:
    """What a text says where its score is highest."""
    values = in_whole_words(kind(), TOKENIZER)._of(ids(text), ids(" " + QUESTION).tolist())
    return decode(TOKENIZER, ids(text)[values == values.max()].tolist())


@pytest.mark.parametrize("kind", [BM25Score, FocusScore])
@pytest.mark.parametrize("times", [1, 20])
def test_the_fact_wins_over_quotations_of_the_question(kind, times):
    text = FILLER + (QUOTED + FILLER) * times + FACT + FILLER + QUOTED
    plain = kind()._of(ids(text), ids(" " + QUESTION).tolist())
    assert "48213" not in decode(TOKENIZER, ids(text)[plain == plain.max()].tolist())
    assert "48213" in best(text, kind)


@pytest.mark.parametrize(
    "text",
    [
        FILLER + QUOTED + FILLER,  # nothing else has its words
        FILLER
        + f"\nQ: {QUESTION}\nA: 48213, and nobody knew.\n"
        + FILLER
        + FACT.replace("green tower", "red house"),  # a heading
        FILLER + "nobody knew the password for the green tower, which is 48213. " + FILLER,  # a statement
    ],
)
def test_what_may_hold_the_answer_stays(text):
    without = FocusScore()._of(ids(text), ids(" " + QUESTION).tolist())
    assert "nobody knew" in best(text)
    assert torch.equal(
        without.isneginf(),
        in_whole_words(FocusScore(), TOKENIZER)._of(ids(text), ids(" " + QUESTION).tolist()).isneginf(),
    )


def test_a_quotation_is_found_to_the_token():
    text = ids(FILLER + QUOTED + FILLER)
    first, last = quotation(text, 0, len(text), QUESTION, TOKENIZER) or (0, 0)
    assert decode(TOKENIZER, text[first:last].tolist()).strip(' "') == "What is the password\nfor the green tower?"
    # Slots without a token are no part of it.
    gap = torch.cat([text[: first + 3], torch.full((5,), -1, dtype=torch.int32), text[first + 3 :]])
    assert quotation(gap, 0, len(gap), QUESTION, TOKENIZER) == (first, last + 5)
    assert quotation(text, last, len(text), QUESTION, TOKENIZER) is None
