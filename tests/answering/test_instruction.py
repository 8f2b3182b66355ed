"""How to answer: the instruction stands before the question in a chat template, and nothing is chosen by its words."""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.answering.ask import ask
from sharedllm.answering.chat import Chat
from sharedllm.answering.together import ask_together
from sharedllm.prompts import PromptForm
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

TEXT = "Rain fell on the harbour. " * 6 + "The falcon has a code.\n" + "Snow fell on the hills. " * 6
QUESTION, OTHER = "What is the code of the falcon?", "Speak of rain that fell on the harbour, and of snow on the hills."


def chat_model():
    """A deep model and its tokenizer with a chat template."""
    base, tokenizer = tiny_base("llama", vocab_size=256, max_position_embeddings=1024), byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    heads = {
        "lower_layers": 2,
        "injection_map": [[0, 0], [1, 1], [2, 2]],
        "selection_heads": [[0, 1, 1.0], [2, 3, 0.5]],
    }
    model = tiny_shared("llama", base=base, injection="deep", encoding="chunk", prefix=[5, 3, 9], window=512, **heads)
    return model, tokenizer


def test_nothing_is_chosen_by_the_instruction():
    model, tokenizer = chat_model()
    memory = model.read(tokenize(tokenizer, TEXT), keep_all=True)
    options = {"budget": 128, "max_new_tokens": 4}
    answers = [ask(model, tokenizer, memory, QUESTION, instruction=how, **options) for how in ("", OTHER)]
    plain, told = answers
    assert torch.equal(plain.scores, told.scores) and plain.citations == told.citations
    assert tokenizer.decode(told.question_ids[0]).endswith(f"{OTHER}\nQuestion: {QUESTION}\nAnswer:>")
    together = ask_together(model, tokenizer, memory, [QUESTION], instruction=OTHER, **options)
    assert [source["text"] for source in together[0].sources] == [source["text"] for source in told.sources]
    blank = ask(model, tokenizer, memory, QUESTION, instruction=" \n", **options)
    assert torch.equal(blank.question_ids, plain.question_ids)
    with pytest.raises(UserError, match="the question with its instruction has"):
        ask(model, tokenizer, memory, QUESTION, instruction=OTHER * 9, **options)
    with pytest.raises(UserError, match="instruction=5 is an int: pass a text"):
        ask(model, tokenizer, memory, QUESTION, instruction=5, **options)


def test_each_question_of_a_chat_has_the_instruction(monkeypatch):
    """Nothing is chosen by it. Earlier turns keep it, so that all questions have one form."""
    model, tokenizer = chat_model()
    memory = model.read(tokenize(tokenizer, TEXT), keep_all=True)
    prompts, generate = [], type(model).generate

    def generated(self, prompt, **options):
        prompts.append(tokenizer.decode(prompt[0]))
        return generate(self, prompt, **options)

    monkeypatch.setattr(type(model), "generate", generated)
    plain, told = (
        Chat(model, tokenizer, memory, budget=128, max_new_tokens=4, instruction=how) for how in ("", f" {OTHER}\n")
    )
    asked = f"{OTHER}\nQuestion: {QUESTION}\nAnswer:>"
    for turn in (1, 2):
        free, short = plain.ask(QUESTION), told.ask(QUESTION)
        assert torch.equal(free.memory.position, short.memory.position)
        assert prompts[-1].endswith(asked) and prompts[-1].count(asked) == turn and prompts[-2].endswith(f"{QUESTION}>")
    with pytest.raises(UserError, match="the question with its instruction has"):
        Chat(model, tokenizer, memory, instruction=OTHER * 9).ask(QUESTION)
    with pytest.raises(UserError, match="instruction=5 is an int: pass a text"):
        Chat(model, tokenizer, memory, instruction=5)


def test_a_plain_form_has_its_own_marks():
    """Its prompt begins the answer already, so the question is not marked again."""
    form = PromptForm.of(byte_tokenizer())
    assert form.with_instruction("Who?", "In French.") == "Who?\nIn French."
    assert form.with_instruction("Who?", "") == "Who?"
