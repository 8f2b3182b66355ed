"""Chat: turns read from the document and from the chat itself, and no part of the chat is lost."""

import io
import json
import random
import sys

import pytest
import torch
from combined import rarely
from helpers import byte_tokenizer
from served import small_model
from transformers import AutoTokenizer

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.answering.chat import HISTORY, Chat
from sharedllm.data.synthetic import make_needles
from sharedllm.demo.sources import library_text
from sharedllm.utils.text import tokenize

TEXT = "".join(f"Line {i}: the quick brown fox jumps over the lazy dog.\n" for i in range(8))
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def document(model, tokenizer):
    return model.read(tokenize(tokenizer, TEXT), keep_all=True, sources=["foxes"])


def said(chat: Chat) -> list[int]:
    """All tokens of the turns: history, then running text."""
    history = [] if chat.history is None else chat.history.token_ids[0].tolist()
    return history + chat.running[0].tolist()


@pytest.mark.parametrize("template", [*rarely(None), TEMPLATE])
def test_all_turns_are_kept_and_the_oldest_are_folded(model, tokenizer, document, template):
    tokenizer.chat_template = template
    chat = Chat(model, tokenizer, document, budget=60, max_new_tokens=20)
    expected, sizes = "", []
    for number in range(8):
        pieces = []
        turn = chat.ask(f" Is it {number}? ", pieces.append)
        assert (turn.question, turn.stopped) == (f"Is it {number}?", False)
        assert turn.answer == "".join(pieces).strip()
        if template is None:
            assert "\n" not in turn.answer
            expected += f"\nQuestion: Is it {number}?\nAnswer:" + (f" {turn.answer}" if turn.answer else "")
        else:
            expected += ("\n" if number else "") + f"[user]Is it {number}?\n[bot]{turn.answer}"
        assert said(chat) == tokenizer(expected).input_ids
        assert turn.running + len(tokenizer(turn.question).input_ids) + 20 <= model.config.window
        assert int(turn.memory.kept[0]) <= 60
        sizes.append(0 if chat.history is None else int(chat.history.lengths[0]))
    assert sizes[0] == 0 and sizes[-1] > sizes[4] > 0 and all(size % model.config.chunk_size == 0 for size in sizes)
    assert chat.history.complete
    whole = model.read(chat.history.token_ids.long(), keep_all=True)
    for ours, theirs in zip(chat.history.keys, whole.keys, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_turn_is_generated_over_what_it_selected(model, tokenizer, document):
    chat = Chat(model, tokenizer, document, budget=60, score="attention", max_new_tokens=20)
    chat.ask("What jumps?")
    before = chat.running
    turn = chat.ask("What is lazy?")
    assert turn.running == before.shape[1]
    prompt = torch.cat([before, tokenize(tokenizer, "\nQuestion: What is lazy?\nAnswer:")], 1)
    query = prompt[:, before.shape[1] :]
    memory = model.select(document, query, budget=60, score="attention")
    assert torch.equal(turn.memory.position, memory.position)
    out = model.generate(prompt, memory=memory, max_new_tokens=20, do_sample=False)
    text = tokenizer.decode(out[0, prompt.shape[1] :])
    assert turn.answer == text.strip().split("\n")[0].strip()


@pytest.mark.slow
def test_answers_longer_than_the_window(model, tokenizer, document):
    tokenizer.chat_template = TEMPLATE
    chat = Chat(model, tokenizer, document, budget=60, max_new_tokens=300)
    assert chat.score_name == "focus", "as ask, while only the document is searched"
    for _ in range(2):
        turn = chat.ask("Why?")
    assert chat.score_name == "attention", "earlier turns repeat the words of questions"
    assert len(said(chat)) > 2 * 250 and turn.running <= model.config.window // 2
    assert int(chat.history.lengths[0]) > 200


def test_stopping_an_answer(model, tokenizer, document):
    """Text emitted before an interruption is kept; a question without an answer is not."""
    tokenizer.chat_template = TEMPLATE
    chat = Chat(model, tokenizer, document, budget=60, max_new_tokens=20)
    free = Chat(model, tokenizer, document, budget=60, max_new_tokens=20).ask("Why?").answer
    pieces = []

    def stop(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 5:
            raise KeyboardInterrupt

    turn = chat.ask("Why?", stop)
    assert (
        turn.stopped and turn.answer == "".join(pieces).strip() and free.startswith(turn.answer) and free != turn.answer
    )
    assert said(chat) == tokenizer(f"[user]Why?\n[bot]{turn.answer}").input_ids

    def stopped(*_, **__):
        raise KeyboardInterrupt

    before = said(chat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "generate", stopped)
        with pytest.raises(KeyboardInterrupt):
            chat.ask("And why?")
    assert said(chat) == before


def test_bad_requests(model, tokenizer, document):
    for arguments, message in (
        ({"document": model.read(tokenize(tokenizer, TEXT))}, "keep_all=True"),
        ({"document": document.repeat_interleave(2)}, "holds 2 texts"),
        ({"budget": 0}, "budget=0 asks for nothing"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 asks for nothing"),
        ({"score": "best"}, "score='best' is not known"),
        ({"model": None}, "model is a NoneType: pass a SharedLLMForCausalLM"),
        ({"tokenizer": None}, "tokenizer is a NoneType: pass the tokenizer of the model"),
    ):
        with pytest.raises(ValueError, match=message):
            Chat(**{"model": model, "tokenizer": tokenizer, "document": document} | arguments)
    chat = Chat(model, tokenizer, document, max_new_tokens=20)
    chat.ask("What jumps?")
    before = said(chat)
    with pytest.raises(ValueError, match=r"question=\['a'\] is a list: pass a text"):
        chat.ask(["a"])
    with pytest.raises(ValueError, match="the question is empty"):
        chat.ask(" \n")
    with pytest.raises(ValueError, match=r"the question '\.\.\.' has no word"):
        chat.ask("...")
    with pytest.raises(
        ValueError, match=r"the question has .* tokens; 108 fit alongside 20 new ones in the window=128"
    ):
        chat.ask("what? " * 50)
    assert said(chat) == before


def test_sources_without_names(model, tokenizer):
    chat = Chat(model, tokenizer, model.read(tokenize(tokenizer, TEXT), keep_all=True), budget=400, max_new_tokens=20)
    found = {source["document"] for number in range(5) for source in chat.ask(f"Is it {number}?").sources}
    assert found == {"the text", HISTORY}


@pytest.mark.slow
def test_the_bundled_model_recalls_text_and_chat():
    """Needles in 2,000 tokens of text, and one told in an early turn that left the window long ago."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    model = SharedLLMForCausalLM.from_pretrained(bundled_model(), dtype=torch.float32).eval()
    hidden, told, *others = make_needles(random.Random(3), 20)
    ids = library_text(tokenizer, 2000)[0]
    needle = tokenize(tokenizer, hidden.statement)[0]
    ids = torch.cat([ids[:700], needle, ids[700 : 2000 - len(needle)]])[None]
    chat = Chat(model, tokenizer, model.read(ids, keep_all=True, sources=["library"]), budget=256, max_new_tokens=16)

    def recalled(fact) -> str:
        """The model's completion of a fact over a turn's memory, given the beginning of the answer."""
        memory = chat.ask(f"What is the secret code of the {fact.key}?").memory
        out = model.generate(tokenize(tokenizer, fact.question), memory=memory, max_new_tokens=8, do_sample=False)
        return tokenizer.decode(out[0])[len(fact.question) :]

    assert recalled(hidden).startswith(hidden.answer)
    chat.ask(told.statement.strip())
    for fact in others:
        chat.ask(fact.statement.strip())
    assert told.answer not in tokenizer.decode(chat.running[0]), "it has left the window"
    assert told.answer in tokenizer.decode(chat.history.token_ids[0])
    assert recalled(told).startswith(told.answer)
    assert recalled(hidden).startswith(hidden.answer)


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def talk(run, monkeypatch, small_folder):
    """Run `sharedllm chat` with lines on standard input, from a pipe or as if typed."""

    def call(lines: str, *arguments, typed: bool = False):
        stdin = io.TextIOWrapper(
            io.BytesIO(lines.encode("utf-8", "surrogateescape")), "utf-8"
        )  # strict, as most locales are
        stdin.isatty = lambda: typed
        monkeypatch.setattr(sys, "stdin", stdin)
        return run("chat", *arguments, "--model", small_folder, "--score", "bm25", "--max-new-tokens", 12)

    return call


def test_chat_by_pipe(run, talk, text_file, small_folder, tmp_path):
    memory = tmp_path / "text.memory"
    assert run("read", text_file, "--keep-all", "-o", memory, "--model", small_folder)[0] == 0
    lines = "What jumps?\n\n  \nIs it lazy?\n" + "Line 5?\n" * 2 + "/exit\nNever asked\n"
    code, out, err = talk(lines, memory, "--budget", 50, "--json")
    assert (code, err) == (0, "")
    turns = [json.loads(line) for line in out.splitlines()]
    assert [turn["question"] for turn in turns] == ["What jumps?", "Is it lazy?"] + ["Line 5?"] * 2
    assert turns[0]["history_tokens"] == 0 < turns[-1]["history_tokens"]
    for turn in turns:
        assert (turn["context_tokens"], turn["budget"], turn["score"]) == (len(TEXT), 50, "bm25")
        assert 0 < turn["selected_tokens"] <= 50
        assert 1 <= len(turn["sources"]) <= 3
        for source in turn["sources"]:
            start, end = source["characters"]
            assert source["document"] == HISTORY or TEXT[start:end] == source["text"] != ""
    from_text = talk(lines, text_file, "--budget", 50, "--json")[1]
    assert [json.loads(line)["answer"] for line in from_text.split("\n")[:-1]] == [turn["answer"] for turn in turns]
    code, out, err = talk(lines, memory, "--budget", 50)
    assert code == 0
    assert [line.strip() for line in out.rstrip("\n").split("\n")] == [turn["answer"] for turn in turns]
    sources = [source for turn in turns for source in turn["sources"]]
    cut = [line for line in err.splitlines() if line == "The answer is cut: raise --max-new-tokens."]
    assert len(cut) == sum(turn["cut"] for turn in turns) > 0
    assert len(err.splitlines()) == len(sources) + len(cut)
    assert all(f"{source['document']}, {source['place'] or 'characters'}" in err for source in sources)
    assert talk("", memory)[:2] == (0, "")


def test_bad_input(run, talk, text_file, small_folder, tmp_path):
    tree = tmp_path / "tree.memory"
    assert run("read", text_file, "-o", tree, "--model", small_folder)[0] == 0
    for lines, arguments, message in (
        ("What?\n", [tree], "--keep-all"),
        ("What?\n", ["-"], "standard input is for the questions"),
        ("What?\n", [tmp_path / "missing.txt"], "does not exist"),
        ("What?\n", [text_file, "--budget", 0], "budget"),
        ("What?\n\n" + "what? " * 50, [text_file], "line 3: the question has"),
        ("/quitt\n", [text_file], "line 1: /quitt is no command: use /help or /exit."),
        ("What?\n\ncaf\udce9\n", [text_file], "line 3: the question is not UTF-8: byte 3 is 0xe9"),
    ):
        code, out, err = talk(lines, *arguments)
        assert code == 2 and message in err and err.splitlines()[-1].startswith("error: "), err
        assert out.count("\n") == ("line 3" in message), "earlier answers stay"


def test_at_a_terminal(talk, text_file, monkeypatch):
    """Mistakes do not end the chat; prompts and remarks stay off standard output."""
    code, out, err = talk("What jumps?\n\n" + "what? " * 50 + "\ncaf\udce9\nIs it lazy?\n", text_file, typed=True)
    assert code == 0 and out.count("\n") == 2
    assert f"{len(TEXT)} tokens" in err and err.count("> ") == 6
    assert "error: the question has" in err and "error: the question is not UTF-8" in err

    code, out, err = talk("/help\nWhat jumps?\n/quit\nIs it lazy?\n", text_file, typed=True)
    assert code == 0 and out.count("\n") == 1 and err.count("Ctrl-D leaves") == 2

    stops = iter([KeyboardInterrupt, None])
    monkeypatch.setattr(SharedLLMForCausalLM, "select", interrupted(stops, SharedLLMForCausalLM.select))
    code, out, err = talk("What jumps?\nIs it lazy?\n", text_file, typed=True)
    assert code == 0 and out.count("\n") == 1 and "stopped" in err
    stops = iter([KeyboardInterrupt])
    monkeypatch.setattr(SharedLLMForCausalLM, "select", interrupted(stops, None))
    code, out, err = talk("What jumps?\nIs it lazy?\n", text_file)
    assert (code, out, err) == (130, "", "stopped\n")


def interrupted(stops, method):
    def call(*arguments, **options):
        if next(stops) is KeyboardInterrupt:
            raise KeyboardInterrupt
        return method(*arguments, **options)

    return call


def test_a_byte_order_mark_is_no_part_of_the_first_line(talk, text_file):
    code, out, _ = talk("\ufeff/exit\nWhat jumps?\n", text_file)
    assert (code, out) == (0, "")


def test_a_piped_question_that_can_not_be_answered_is_named_and_the_next_follows(talk, text_file):
    lines = "What jumps?\n\n" + "what? " * 300 + "\ncaf\udce9\nIs it lazy?\n"
    code, out, err = talk(lines, text_file, "--json")
    said = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and [one.get("question") for one in said] == ["What jumps?", None, None, "Is it lazy?"]
    wrong = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (
        len(wrong) == 2
        and wrong[0].startswith("error: line 3: the question has 1,")
        and "line 4: the question is not" in wrong[1]
    )
    assert [f"error: line {one['line']}: {one['error']}" for one in said[1:3]] == wrong
    code, out, err = talk(lines, text_file)
    assert (
        code == 2
        and out.count("\n") == 2
        and [line for line in err.splitlines() if line.startswith("error: ")] == wrong
    )
