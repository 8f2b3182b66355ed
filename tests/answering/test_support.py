"""The order in which the sources of an answer are named."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.answering.ask import choose
from sharedllm.answering.asked import prompt_of
from sharedllm.answering.citations import supporting

TEXTS = ["The old mill stands by the lake.", "Piet Maas bought the old mill in 1887.", "Rain fell."]


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("Piet Maas.", [1, 0, 2]),
        ("It was Piet Brandt, who bought the old mill", [1, 0, 2]),  # one of two words that the question lacks
        ("Ottilie Brandt and Piet", [0, 1, 2]),
        ("Yes.", [0, 1, 2]),
        ("The old mill", [0, 1, 2]),
        ("", [0, 1, 2]),
        ("the lake, rain", [0, 2, 1]),
    ],
)
def test_texts_that_have_the_words_of_the_answer_come_first(answer, order):
    assert supporting(TEXTS, "Who bought the old mill?", answer) == order


def test_what_an_answer_is_taken_from_is_among_its_sources():
    base = tiny_base("qwen2", vocab_size=256, dtype=torch.float64, max_position_embeddings=256)
    settings = {"injection": "deep", "encoding": "chunk", "window": 256, "chunk_size": 32, "lower_layers": 2}
    model = tiny_shared("qwen2", base=base, injection_map=[[0, 0], [1, 1]], **settings)
    tokenizer = byte_tokenizer()
    names = ["red", "blue", "green", "white", "black"]
    text = "".join(f"The {name} mill was sold: {name * 3}. " + "Rain fell on all the hills. " * 4 for name in names)
    memory = model.read(torch.tensor([tokenizer.encode(text)]), keep_all=True, sources=["a"])
    prompt = prompt_of(model, tokenizer, "mill sold?", 8)
    chosen = choose(model, tokenizer, memory, prompt, budget=250, score="bm25")
    assert len(chosen.sources) == len(chosen.citations) > 3
    for name in names:
        named = chosen.supporting("mill sold?", name * 3)
        assert len(named.sources) == len(named.citations) <= 3 and name * 3 in named.sources[0]["text"]
