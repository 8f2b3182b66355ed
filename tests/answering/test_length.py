"""How long an answer may be, and whether it had to end before its text did."""

import copy
from typing import get_args

import pytest
from combined import combined
from helpers import byte_tokenizer, tiny_base, tiny_shared
from served import TEMPLATE, TEXT

from sharedllm.answering.ask import ask
from sharedllm.answering.asked import ANSWER_TOKENS, answer_length, least_window
from sharedllm.cli.common import NewTokensOption
from sharedllm.utils.text import tokenize


@pytest.fixture(scope="module")
def model():
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=512, num_hidden_layers=2)
    return tiny_shared("llama", base=base, window=256, encoding="chunk", injection="joint", lower_layers=1)


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_tokenizer()
    made.chat_template = TEMPLATE
    return made


def test_the_default_fits_into_the_window(model):
    help_text = get_args(NewTokensOption)[1].help  # of the CLI, which imports nothing that is slow
    assert f"Default: {ANSWER_TOKENS} tokens" in help_text
    assert answer_length(model.config, None) == min(ANSWER_TOKENS, 128)
    narrow = copy.copy(model.config)
    narrow.window = 40
    assert answer_length(narrow, None) == 20 and answer_length(narrow, 33) == 33


@pytest.mark.parametrize(("injection", "template"), combined(["joint", "deep"], [None, TEMPLATE]))
def test_the_least_window_holds_a_question(injection, template):
    made = byte_tokenizer()
    made.chat_template = template
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=512, num_hidden_layers=2)
    least = least_window(made, injection)
    for window, fits in ((least, True), (least - 1, False)):
        model = tiny_shared("llama", base=base, window=window, encoding="chunk", injection=injection, lower_layers=1)
        memory = model.read(tokenize(made, TEXT), keep_all=True)
        if fits:
            assert ask(model, made, memory, "Who?").answer_ids.shape[1] > 0
        else:
            with pytest.raises(ValueError, match="the question has"):
                ask(model, made, memory, "Who?")


def test_an_answer_that_had_to_end_is_cut(model, tokenizer):
    model = copy.deepcopy(model)
    memory = model.read(tokenize(tokenizer, TEXT), keep_all=True)
    long = ask(model, tokenizer, memory, "What jumps?", max_new_tokens=12)
    short = ask(model, tokenizer, memory, "What jumps?", max_new_tokens=6)
    assert long.cut and short.cut and long.text.startswith(short.text)
    said = long.answer_ids[0].tolist()
    # The token ends an answer now, where it comes first.
    model.generation_config.eos_token_id = said[5]
    first = said.index(said[5])
    ended = ask(model, tokenizer, memory, "What jumps?", max_new_tokens=12)
    assert not ended.cut and len(ended.answer_ids[0]) <= first + 1
    assert not ask(model, tokenizer, memory, "What jumps?", max_new_tokens=first + 1).cut
    if first:
        assert ask(model, tokenizer, memory, "What jumps?", max_new_tokens=first).cut
    assert len(ask(model, tokenizer, memory, "What jumps?").answer_ids[0]) <= ANSWER_TOKENS
