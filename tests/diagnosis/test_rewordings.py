"""The depth at which a base knows what is meant: measured with questions that share no word with their facts."""

import pytest
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.diagnosis.meaning import Meaning, measure_meaning
from sharedllm.diagnosis.posed import pose_reworded
from sharedllm.diagnosis.rewordings import REWORDINGS
from sharedllm.evaluation.qa.sets.reworded import FACTS
from sharedllm.scoring.words import terms_of, words_of


@pytest.mark.parametrize(("fact", "question"), REWORDINGS)
def test_no_word_in_common(fact, question):
    assert not set(terms_of(words_of(fact))) & set(terms_of(words_of(question)))


def test_not_what_is_evaluated():
    assert not {fact for fact, _ in REWORDINGS} & {fact for fact, _, _ in FACTS}


def test_the_best_depth_if_it_finds_something():
    assert Meaning({1: 0.1, 2: 0.3, 3: 0.5, 4: 0.45}, 30, 100).choose() == 3
    assert Meaning({1: 0.05, 2: 0.1}, 30, 100).choose() is None
    assert Meaning({}, 0, 100).choose() is None


@pytest.mark.slow
def test_measured_twice_alike():
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=1024)
    settings = {"injection": "deep", "encoding": "chunk", "lower_layers": 2, "window": 1024, "chunk_size": 64}
    model = tiny_shared("llama", base=base, **settings)
    text = "\n\n".join(f"Paragraph {i} speaks of gardens, windows and horses." for i in range(40))
    posed, read = pose_reworded(1024, byte_tokenizer(), text), []
    first = measure_meaning(model, byte_tokenizer(), posed, range(1, 4), read.append)
    assert first == measure_meaning(model, byte_tokenizer(), posed, range(1, 4))
    assert list(first.found) == [1, 2, 3] and 0 < first.questions <= len(REWORDINGS) and first.pieces > 10
    assert all(1 / first.pieces <= found <= 1 for found in first.found.values())
    assert sum(read) == posed.tokens == len(text) + sum(len(fact) + 1 for fact, _ in REWORDINGS)
