"""The pipeline of transformers: one reading, many answers; what it can't do is said in one line."""

from pathlib import Path

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from served import TEXT, small_model, store_of
from transformers import pipeline

from sharedllm import bundled_model, open_memory
from sharedllm.answering.ask import ask
from sharedllm.causal_lm import SharedLLMForCausalLM
from sharedllm.integrations.pipeline import OPTIONS
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

TASK = "sharedllm-question-answering"
ASKED = ["What jumps?", "Over whom?"]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def pipe(model):
    return pipeline(TASK, model=model, tokenizer=byte_tokenizer(), device="cpu", max_new_tokens=8)


@pytest.mark.slow
def test_a_trained_model_answers():
    pipe = pipeline(TASK, model=bundled_model(), device="cpu")
    filler = "The lanterns burned low in the harbour, and nobody came ashore. " * 8
    text = f"{filler}The secret code of the silver falcon is 48213. {filler}The secret code of the red owl is 77120. {filler}"
    questions = ["What is the secret code of the silver falcon?", "What is the secret code of the red owl?"]
    said = pipe(text, questions=questions, return_sources=True)
    assert [answer.rstrip(".") for answer in said["answers"]] == ["48213", "77120"]
    assert [answer in found[0]["text"] for answer, found in zip(["48213", "77120"], said["sources"], strict=True)] == [
        True
    ] * 2
    assert pipe(text, question=questions[1])["answer"] == said["answers"][1]


def test_answers_are_those_of_ask(pipe, model):
    memory = model.read(tokenize(byte_tokenizer(), TEXT), keep_all=True)
    expected = [ask(model, byte_tokenizer(), memory, q, budget=60, score="bm25", max_new_tokens=8) for q in ASKED]
    said = pipe(TEXT, questions=ASKED, budget=60, score="bm25", return_sources=True)
    cut = [e.cut for e in expected]
    assert said == {"answers": [e.text for e in expected], "cut": cut, "sources": [e.sources for e in expected]}
    assert pipe(memory, questions=ASKED, budget=60, score="bm25") == {"answers": said["answers"], "cut": cut}
    single = {"answer": said["answers"][0], "cut": cut[0]}
    assert pipe([TEXT, TEXT], question=ASKED[0], budget=60, score="bm25") == [single] * 2


def test_a_text_is_read_once(pipe, model, monkeypatch):
    read, times = SharedLLMForCausalLM.read, []
    monkeypatch.setattr(SharedLLMForCausalLM, "read", lambda *a, **k: times.append(1) or read(*a, **k))
    assert len(pipe(TEXT, questions=[*ASKED, "Who?"])["answers"]) == 3 and len(times) == 1


def test_options_of_the_pipeline_hold_unless_a_call_gives_others(model):
    pipe = pipeline(
        TASK, model=model, tokenizer=byte_tokenizer(), device="cpu", max_new_tokens=4, budget=60, score="bm25"
    )
    assert len(pipe(TEXT, question=ASKED[0])["answer"]) <= 4
    memory = model.read(tokenize(byte_tokenizer(), TEXT), keep_all=True)
    longer = ask(model, byte_tokenizer(), memory, ASKED[0], budget=40, score="bm25", max_new_tokens=30).text
    assert pipe(TEXT, question=ASKED[0], budget=40, max_new_tokens=30)["answer"] == longer


def test_documents_and_memories_on_disk(pipe, model, tmp_path):
    (tmp_path / "foxes.md").write_text(f"# Foxes\n\n{TEXT}")
    said = pipe(tmp_path / "foxes.md", question=ASKED[0], return_sources=True, score="bm25")
    assert (
        said["sources"][0]["document"] == str(tmp_path / "foxes.md")
        and 'section "Foxes"' in said["sources"][0]["place"]
    )
    store = store_of(tmp_path / "foxes.memory", model, byte_tokenizer(), foxes=TEXT)
    on_disk = pipe(Path(store.folder), question=ASKED[0], score="bm25")
    assert (
        on_disk
        == pipe(open_memory(store.folder), question=ASKED[0], score="bm25")
        == pipe(TEXT, question=ASKED[0], score="bm25")
    )


def test_the_name_of_a_file_is_not_taken_for_a_text(pipe, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "foxes.md").write_text(TEXT)
    store_of(tmp_path / "foxes.memory", model, byte_tokenizer(), foxes=TEXT)
    for name in ("foxes.md", str(tmp_path / "foxes.md"), "foxes.memory"):
        with pytest.raises(UserError, match=r"is the name of a file here, not a text: pass Path\('"):
            pipe(name, question="Who?")
    for text in ("notes", "nosuch.txt", "foxes.md ends here.", "a\0b", "x" * 5000):
        assert "answer" in pipe(text, question="Who?", max_new_tokens=1)


def test_a_memory_of_two_texts_is_refused(pipe, model):
    memory = model.read(tokenize(byte_tokenizer(), TEXT).repeat(2, 1), keep_all=True)
    with pytest.raises(UserError, match="holds 2 texts: pass one of them"):
        pipe(memory, question="Who?")
    assert "answer" in pipe(memory.index_select([0]), question="Who?", max_new_tokens=1)


def test_a_model_that_keeps_a_tree_answers_over_all_of_it():
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=256)
    pipe = pipeline(TASK, model=tiny_shared("llama", base=base, window=128), tokenizer=byte_tokenizer(), device="cpu")
    said = pipe(TEXT, questions=ASKED, max_new_tokens=5, return_sources=True)
    assert len(said["answers"]) == 2 and said["sources"] == [[], []]
    with pytest.raises(UserError, match="does not hold every token"):
        pipe(TEXT, question=ASKED[0], budget=40)


@pytest.mark.parametrize(
    ("context", "options", "said"),
    [
        ("", {"question": "Who?"}, "context is empty"),
        ([], {"question": "Who?"}, r"context=\[\] holds no text"),
        ([TEXT, " "], {"question": "Who?"}, "context is empty"),
        ({"text": TEXT}, {"question": "Who?"}, "context is a dict: pass a text"),
        (Path("nosuch.txt"), {"question": "Who?"}, "nosuch.txt does not exist"),
        (Path("nosuch.memory"), {"question": "Who?"}, "nosuch.memory does not exist"),
        (TEXT, {}, "questions is missing"),
        (TEXT, {"questions": []}, r"questions=\[\] asks nothing"),
        (TEXT, {"questions": "Who?"}, "questions is a str: pass a list"),
        (TEXT, {"questions": ["Who?", 3]}, "question=3 is an int"),
        (TEXT, {"question": " "}, "question='' is empty"),
        (TEXT, {"question": "Who?", "questions": ["Who?"]}, "both given"),
        (
            TEXT,
            {"question": "Who?", "press": 1},
            f"press=1: no such option of this pipeline; it takes {', '.join(OPTIONS)}",
        ),
        (TEXT, {"question": "Who?", "budget": 0}, "budget=0 asks for nothing"),
        (TEXT, {"question": "Who?", "max_new_tokens": 1.5}, "max_new_tokens=1.5 is not a whole number"),
        (TEXT, {"question": "Who?", "score": "best"}, "score='best' is not known"),
        (TEXT, {"question": "Who?" * 60}, "the question has 2"),
        (TEXT, {"question": "Who?", "batch_size": 2}, "batch_size=2: texts are read one after the other"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(pipe, context, options, said):
    with pytest.raises(UserError, match=said):
        pipe(context, **options)


def test_other_models_are_refused(pipe):
    ids = tokenize(byte_tokenizer(), TEXT)
    other = tiny_shared(
        "llama", seed=3, base=tiny_base("llama", seed=3, vocab_size=256), encoding="chunk", injection="joint"
    )
    with torch.no_grad():
        for memory in (other.read(ids, keep_all=True), other.read(ids)):
            with pytest.raises(UserError, match="made by another model"):
                pipe(memory, question="Who?")
    with pytest.raises(UserError, match="model is an ordinary LlamaForCausalLM"):
        pipeline(TASK, model=tiny_base("llama", vocab_size=256), tokenizer=byte_tokenizer(), device="cpu")
