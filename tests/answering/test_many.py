"""Many questions at once are answered as one by one, over one text or several, in their order."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.answering.ask import ask
from sharedllm.answering.many import ask_many
from sharedllm.decoding import Group
from sharedllm.utils.text import tokenize

TEXTS = [
    "".join(f"Line {i}: the quick brown fox jumps over the lazy dog.\n" for i in range(8)),
    "The night owl is called Mina. She sleeps by day.\n" * 5,
]
QUESTIONS = [
    "What jumps?",
    "Who sleeps by day, and who is called Mina?",
    "Why?",
    "Which line has the dog in it?",
    "What?",
]


@pytest.mark.parametrize("injection", ["joint", "deep"])
@pytest.mark.parametrize("rows", [1, 3])
def test_many_questions(injection, rows, monkeypatch):
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    settings = {"prefix": [65, 66]} if injection == "deep" else {}
    model = tiny_shared("llama", base=base, window=200, injection=injection, encoding="chunk", **settings)
    tokenizer, sizes, own = byte_tokenizer(), [], Group.step

    def step(group: Group) -> None:
        sizes.append(len(group.rows))
        own(group)

    monkeypatch.setattr(Group, "step", step)
    texts = [model.read(tokenize(tokenizer, text), keep_all=True) for text in TEXTS]
    asked = [(texts[i % 2], question) for i, question in enumerate(QUESTIONS)]
    options = {"budget": 110, "score": "bm25", "max_new_tokens": 14}
    expected = [ask(model, tokenizer, *one, **options) for one in asked]
    answers = ask_many(model, tokenizer, asked, rows=rows, **options)
    for answer, one in zip(answers, expected, strict=True):
        assert (answer.question, answer.text, answer.sources) == (one.question, one.text, one.sources)
        assert torch.equal(answer.answer_ids, one.answer_ids) and torch.equal(answer.question_ids, one.question_ids)
        assert answer.seconds.keys() == one.seconds.keys() and min(answer.seconds.values()) >= 0
    assert max(sizes) == rows and len({answer.text for answer in answers}) > 2


def test_a_question_that_can_not_be_asked():
    model = tiny_shared("llama", base=tiny_base("llama", vocab_size=256), injection="joint", encoding="chunk")
    assert ask_many(model, byte_tokenizer(), []) == []
    text = model.read(tokenize(byte_tokenizer(), TEXTS[0]), keep_all=True)
    with pytest.raises(ValueError, match="the question is empty"):
        ask_many(model, byte_tokenizer(), [(text, " ")], score="bm25")
