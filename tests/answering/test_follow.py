"""Questions of a conversation that only the one before them explains."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.answering.chat import Chat
from sharedllm.answering.conversation import sought
from sharedllm.serving.prompting import prompt_of
from sharedllm.serving.requests import ChatRequest

EARLIER = "Who bought the old mill?", "Piet Maas."
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


@pytest.mark.parametrize(
    "question",
    [
        "For how much?",
        "And when did she die?",
        "Why?",
        "What did he do then?",
        "Where did they hide the treasure?",
        "how?",
    ],
)
def test_questions_of_few_words_go_on_with_the_earlier_one(question):
    assert sought(question, EARLIER) == f"Who bought the old mill? Piet Maas. {question}"
    assert sought(question, None) == question


@pytest.mark.parametrize(
    "question",
    [
        "Who is Napoleon?",
        "And what happened in 1887?",
        "Which birds swim over the lake?",
        "how old is Ada?",
        "What is the wifi password?",
        "What is photosynthesis?",
        "Did he tell the old miller's son which birds swim there?",
    ],
)
def test_questions_with_a_name_or_more_words_stand_alone(question):
    assert sought(question, EARLIER) == question


@pytest.fixture(scope="module")
def model():
    settings = {"injection": "deep", "encoding": "chunk", "window": 256, "chunk_size": 32, "lower_layers": 2}
    base = tiny_base("qwen2", vocab_size=256, dtype=torch.float64, max_position_embeddings=256)
    return tiny_shared("qwen2", base=base, injection_map=[[0, 0], [1, 1]], **settings)


@pytest.fixture
def tokenizer():
    made = byte_tokenizer()
    made.chat_template = TEMPLATE
    return made


def test_chat_reads_what_the_earlier_question_was_about(model, tokenizer):
    rain = "Rain fell on all the hills. " * 6
    text = f"{rain}The old mill was sold to him, and cost 4800 crowns. {rain}Much rain fell, much snow. {rain}"
    memory = model.read(torch.tensor([tokenizer.encode(text)]), keep_all=True, sources=["a"])
    chat = Chat(model, tokenizer, memory, budget=70, max_new_tokens=4, score="bm25")
    read = lambda turn: "".join(text[i] for i in turn.memory.position[0].tolist())  # noqa: E731
    assert "4800" in read(chat.ask("Who bought the old mill?")) and "4800" in read(chat.ask("For how much?"))
    alone = Chat(model, tokenizer, memory, budget=70, max_new_tokens=4, score="bm25")
    assert "much snow" in read(alone.ask("For how much?"))
    # It still asks only what was asked.
    assert "mill" not in tokenizer.decode(alone.running[0].tolist())


def test_a_server_searches_for_the_earlier_question_too(tokenizer):
    turns = [("user", EARLIER[0]), ("assistant", EARLIER[1]), ("user", "For how much?")]
    make = lambda turns: ChatRequest(messages=[{"role": role, "content": text} for role, text in turns])  # noqa: E731
    searched = lambda turns, window=1000: tokenizer.decode(  # noqa: E731
        prompt_of(make(turns), tokenizer, window).question[0].tolist()
    )
    assert "Who bought the old mill? Piet Maas. For how much?" in searched(turns)
    assert "mill" not in searched(turns, window=50) and "For how much?" in searched(turns, window=50)
    assert "mill" not in searched([*turns[:1], *turns[2:]]) and "mill" not in searched(turns[2:])
    assert prompt_of(make(turns), tokenizer, 1000).text == "For how much?"
    # The same words, asked twice: the second has something before it.
    assert "mill" in searched([turns[2], ("assistant", "No."), *turns])
