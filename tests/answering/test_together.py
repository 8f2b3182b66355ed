"""Questions that are answered together get what each gets alone."""

import pytest
from combined import rarely
from helpers import byte_tokenizer, tiny_base, tiny_shared
from served import TEMPLATE, TEXT

from sharedllm.answering.ask import answer_over, ask
from sharedllm.answering.asked import prompt_of
from sharedllm.answering.together import ask_together
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

QUESTIONS = ["What jumps?", "Over whom does the fox jump?", "Line 3?", "Is the dog lazy or is it not?", "Who?"]
DEEP = {
    "injection": "deep",
    "prefix": [5, 3, 9],
    "chunk_size": 32,
    "lower_layers": 2,
    "injection_map": [[0, 0], [1, 1], [2, 2]],
}


@pytest.fixture(scope="module", params=["joint", "cross", "deep"])
def model(request):
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=512)
    settings = DEEP if request.param == "deep" else {"injection": request.param}
    return tiny_shared("llama", base=base, window=256, encoding="chunk", **settings)


@pytest.fixture(
    scope="module", params=[pytest.param(None, id="plain", marks=pytest.mark.slow), pytest.param(TEMPLATE, id="chat")]
)
def tokenizer(request):
    made = byte_tokenizer()
    made.chat_template = request.param
    return made


@pytest.fixture(scope="module")
def memory(model):
    return model.read(tokenize(byte_tokenizer(), TEXT), keep_all=True, sources=["foxes"])


OPTIONS = {"budget": 150, "score": "bm25", "max_new_tokens": 8}


@pytest.fixture(scope="module")
def alone(model, tokenizer, memory):
    """What each question gets alone."""
    return [ask(model, tokenizer, memory, question, **OPTIONS) for question in QUESTIONS]


@pytest.mark.parametrize("rows", [2, *rarely(1, 8)])
def test_together_is_one_by_one(model, tokenizer, memory, alone, rows):
    together = ask_together(model, tokenizer, memory, QUESTIONS, rows=rows, **OPTIONS)
    assert [reply.text for reply in together] == [answer.text for answer in alone]
    assert [reply.sources for reply in together] == [answer.sources for answer in alone]
    assert [reply.cut for reply in together] == [answer.cut for answer in alone]
    assert len({reply.text for reply in together}) > 1


def test_a_cut_answer_is_told_from_one_that_ended(model, tokenizer, memory, monkeypatch):
    limits = {"budget": 150, "score": "bm25"}
    token = int(ask(model, tokenizer, memory, QUESTIONS[0], **limits, max_new_tokens=3).answer_ids[0, -1])
    monkeypatch.setattr(model.generation_config, "eos_token_id", token)
    for most, first in ((1, None), (8, False)):
        some = QUESTIONS[:3]
        alone = [ask(model, tokenizer, memory, question, **limits, max_new_tokens=most).cut for question in some]
        together = ask_together(model, tokenizer, memory, some, **limits, max_new_tokens=most)
        assert [reply.cut for reply in together] == alone
        assert any(alone) if first is None else alone[0] is first


def test_a_memory_that_keeps_a_tree_is_read_whole():
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=512)
    model, tokenizer = tiny_shared("llama", base=base, window=256), byte_tokenizer()
    memory = model.read(tokenize(tokenizer, TEXT))
    prompts = [prompt_of(model, tokenizer, question, 12) for question in QUESTIONS]
    alone = [answer_over(model, tokenizer, memory, prompt, 12).text for prompt in prompts]
    together = ask_together(model, tokenizer, memory, QUESTIONS, max_new_tokens=12)
    assert [reply.text for reply in together] == alone and all(not reply.sources for reply in together)


def test_a_wrong_question_is_refused_before_any_is_answered(model, tokenizer, memory, monkeypatch):
    monkeypatch.setattr("sharedllm.answering.together.Batch", None)
    with pytest.raises(UserError, match="the question has"):
        ask_together(model, tokenizer, memory, ["Who?", "Who? " * 90], max_new_tokens=5)


def test_an_error_while_answering_is_raised(model, tokenizer, memory, monkeypatch):
    monkeypatch.setattr("sharedllm.answering.together.StopOnText.took", lambda self, token: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask_together(model, tokenizer, memory, QUESTIONS, budget=150, score="bm25", max_new_tokens=5)
    assert ask_together(model, tokenizer, memory, []) == []
