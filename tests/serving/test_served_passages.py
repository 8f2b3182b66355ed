"""A part of a document is found by the name that citations give the document, or the reason why it can't be is told."""

import pytest
from helpers import byte_tokenizer
from served import TEXT, small_model

from sharedllm.serving.errors import ServingError
from sharedllm.serving.passages import passage
from sharedllm.utils.text import tokenize


def read(**more):
    return small_model().read(tokenize(byte_tokenizer(), TEXT), keep_all=True, **more)


def test_a_text_of_unknown_source_is_opened_by_its_name_in_citations():
    assert passage(read(), byte_tokenizer(), "the text", 5, 30)["text"] == TEXT[5:30]
    with pytest.raises(ServingError, match="it holds the text") as refused:
        passage(read(), byte_tokenizer(), "other")
    assert refused.value.status == 404


def test_two_documents_of_one_name_are_not_told_apart():
    memory = small_model().append(read(sources=["a"]), tokenize(byte_tokenizer(), TEXT), sources=["a"])
    with pytest.raises(ServingError, match="document='a' is 2 times in this memory") as refused:
        passage(memory, byte_tokenizer(), "a")
    assert refused.value.status == 409
