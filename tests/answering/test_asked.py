"""What can't be asked is refused in one line that names it, before anything is read."""

import pytest
from helpers import byte_tokenizer
from served import TEXT, small_model

from sharedllm.answering.ask import ask
from sharedllm.answering.retrieve import retrieve
from sharedllm.answering.together import ask_together
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

QUESTION = "What jumps?"


@pytest.fixture(scope="module")
def memory():
    return small_model().read(tokenize(byte_tokenizer(), TEXT), keep_all=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_new_tokens": "5"}, "max_new_tokens='5' is not a whole number"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1 asks for nothing"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 asks for nothing"),
        ({"most_sources": "2"}, "most_sources='2' is not a whole number"),
        ({"most_sources": -1}, "most_sources=-1 asks for nothing"),
    ],
)
def test_wrong_numbers(memory, options, said):
    with pytest.raises(UserError, match=said):
        ask(small_model(), byte_tokenizer(), memory, QUESTION, budget=60, score="bm25", **options)


@pytest.mark.parametrize(("function", "question"), [(ask, QUESTION), (retrieve, QUESTION), (ask_together, [QUESTION])])
def test_no_model_and_no_tokenizer(memory, function, question):
    with pytest.raises(UserError, match="model is a NoneType: pass a SharedLLM"):
        function(None, byte_tokenizer(), memory, question)
    with pytest.raises(UserError, match="tokenizer is a NoneType: pass the tokenizer"):
        function(small_model(), None, memory, question)
