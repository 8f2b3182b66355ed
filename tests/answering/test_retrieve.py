"""Pieces that a question needs: in whole sentences, best first, with the places of their documents."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from served import store_of

from sharedllm.answering.retrieve import retrieve
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

FILLER = "Rain fell on the harbour, and nobody came. "
TEXT = FILLER * 3 + "The silver falcon has a secret code.\n" + FILLER * 3
PREFIX = [5, 3, 9]
DEEP = {
    "injection": "deep",
    "prefix": PREFIX,
    "chunk_size": 32,
    "lower_layers": 2,
    "injection_map": [[0, 0], [1, 1], [2, 2]],
    "selection_heads": [[0, 1, 1.0], [2, 3, 0.5]],
}


@pytest.fixture(scope="module", params=["joint", "deep"])
def model(request):
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=512)
    settings = DEEP if request.param == "deep" else {"injection": "joint"}
    return tiny_shared("llama", base=base, window=256, encoding="chunk", **settings)


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


def read(model, tokenizer, text=TEXT):
    return model.read(tokenize(tokenizer, text), keep_all=True, sources=["story"])


def test_the_piece_with_the_words_is_best(model, tokenizer):
    best, *rest = retrieve(model, tokenizer, read(model, tokenizer), "What is the code of the falcon?", score="bm25")
    assert "silver falcon has a secret code." in best.text and best.document == "story"
    assert TEXT[slice(*best.characters)] == best.text == TEXT[slice(*best.tokens)]  # a token is a byte here
    assert best.text.rstrip()[-1] == "." and all(best.score >= other.score for other in rest)


def test_budget_and_number_are_limits(model, tokenizer):
    memory = read(model, tokenizer)
    found = retrieve(model, tokenizer, memory, "Who came to the harbour in the rain?", score="bm25", budget=130)
    assert len(found) > 1 and sum(end - start for start, end in (f.tokens for f in found)) <= 130
    scores = [f.score for f in found]
    assert scores == sorted(scores, reverse=True)
    one = retrieve(model, tokenizer, memory, "Who came to the harbour in the rain?", score="bm25", budget=130, most=1)
    assert one == found[:1]


def test_pieces_on_disk_are_those_in_memory(model, tokenizer, tmp_path):
    store = store_of(
        tmp_path / "s.memory", model, tokenizer, birds=TEXT, ships=FILLER * 4 + "The Aurora has two masts. "
    )
    found = retrieve(model, tokenizer, store, "How many masts has the Aurora?", score="bm25", most=1)
    assert [f.document for f in found] == ["ships"] and "two masts" in found[0].text
    alone = retrieve(
        model, tokenizer, [store, read(model, tokenizer)], "How many masts has the Aurora?", score="bm25", most=1
    )
    assert alone[0].text == found[0].text
    falcon = [
        retrieve(model, tokenizer, s, "falcon code", score="bm25", most=1)[0] for s in (store, read(model, tokenizer))
    ]
    assert (falcon[0].text, falcon[0].characters) == (falcon[1].text, falcon[1].characters)


def test_the_models_own_score_is_used(model, tokenizer):
    found = retrieve(model, tokenizer, read(model, tokenizer), "What is the code of the falcon?", budget=250)
    assert found and all(torch.tensor(f.score).isfinite() for f in found)
    assert "secret code" in "".join(f.text for f in found)


@pytest.mark.parametrize(
    ("question", "options", "said"),
    [
        ("", {}, "the question is empty"),
        ("?! …", {}, r"the question '\?! …' has no word: ask with one"),
        ("falcon " * 60, {}, "fit alongside 0 new ones in the window=256"),
        ("falcon", {"budget": 0}, "budget=0 asks for nothing"),
        ("falcon", {"budget": 2}, "budget=2 is less than the"),
        ("falcon", {"most": 0}, "most=0 asks for nothing"),
        ("falcon", {"score": "best"}, "score='best'"),
    ],
)
def test_what_can_not_be_is_refused(model, tokenizer, question, options, said):
    with pytest.raises(UserError, match=said):
        retrieve(model, tokenizer, read(model, tokenizer), question, **options)


def test_memories_that_can_not_be_searched_are_refused(model, tokenizer):
    ids = tokenize(tokenizer, TEXT)
    with pytest.raises(UserError, match="the memory holds 2 texts"):
        retrieve(model, tokenizer, model.read(ids.repeat(2, 1), keep_all=True), "falcon")
    with pytest.raises(UserError, match="does not hold every token"):
        retrieve(model, tokenizer, model.read(ids), "falcon")
    other = tiny_shared(
        "llama", seed=5, base=tiny_base("llama", seed=5, vocab_size=256), encoding="chunk", injection="joint"
    )
    with pytest.raises(UserError, match="made by another model"):
        retrieve(model, tokenizer, other.read(ids, keep_all=True), "falcon")
