"""A question that takes long to read says how far it is, at every command that reads one."""

import io
import sys

import pytest
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.answering.ask import ask
from sharedllm.answering.chat import Chat
from sharedllm.cli import common
from sharedllm.utils.text import tokenize

TEXT = "".join(f"Line {i}: the quick brown fox jumps over the lazy dog.\n" for i in range(8))


@pytest.mark.parametrize("injection", ["joint", "deep"])
def test_a_prompt_is_followed_to_its_end(injection):
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    model = tiny_shared("llama", base=base, window=128, injection=injection, encoding="chunk")
    tokenizer = byte_tokenizer()
    document = model.read(tokenize(tokenizer, TEXT), keep_all=True)
    seen = []
    limits = {"budget": 60, "score": "bm25", "max_new_tokens": 4}
    answer = ask(
        model, tokenizer, document, "Is it the fox?", **limits, reading=lambda done, of: seen.append((done, of))
    )
    tokens = answer.question_ids.shape[1]
    assert seen == [(tokens * layer // 4, tokens) for layer in (1, 2, 3, 4)], "each of the 4 layers, and no later step"
    chat, seen[:] = Chat(model, tokenizer, document, **limits), []
    for _ in range(2):
        chat.ask("Is it?", reading=lambda done, of: seen.append((done, of)))
    assert len(seen) == 8 and seen[3][0] == seen[3][1] < seen[7][0] == seen[7][1]
    assert not any(layer._forward_hooks for layer in model.model.upper.layers)


@pytest.mark.parametrize("command", ["ask", "ask all", "chat", "chat --json", "explain"])
def test_lines_where_there_is_no_terminal(run, model_folder, tmp_path, monkeypatch, command):
    text = tmp_path / "foxes.txt"
    text.write_text(TEXT)
    monkeypatch.setattr(common, "SECONDS_A_LINE", 0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who?\n"), encoding="utf-8"))
    name, *rest = command.split()
    asked = [] if name == "chat" else ["Who?"]
    more = {"explain": ["-o", tmp_path / "a.html"], "ask all": ["--selection", "right"]}.get(command, [])
    more += ["--json"] if "--json" in rest else []
    code, out, err = run(name, text, *asked, *more, "--model", model_folder, "--max-new-tokens", 2)
    assert code == 0, err
    lines = [line for line in err.splitlines() if line.startswith("reading the question: ")]
    assert len(lines) == 4 and "reading the question" not in out
    done, of = lines[-1].removeprefix("reading the question: ").removesuffix(" tokens …").split(" of ")
    assert done == of and int(done) > 4
