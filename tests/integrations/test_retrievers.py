"""Retrievers in the real LangChain and LlamaIndex, over memories on disk and in RAM, without the network."""

import asyncio
import importlib
import socket
import sys

import pytest
from helpers import byte_tokenizer, tiny_base, tiny_shared
from served import TEXT, small_model, store_of

from sharedllm import save_memory
from sharedllm.store.writer import writing
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize

QUESTION = "How many masts has the Aurora?"
SHIPS = "# Ships\nRain fell on the harbour. The Aurora has two masts. Nobody came ashore.\n"
LIBRARIES = {"langchain": "langchain_core", "llama_index": "llama_index"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def folder(model, tmp_path):
    return store_of(tmp_path / "notes.memory", model, byte_tokenizer(), foxes=TEXT, ships=SHIPS).folder


# LlamaIndex takes five seconds to import.
@pytest.fixture(params=["langchain", pytest.param("llama_index", marks=pytest.mark.slow)])
def retriever(request, model):
    """Makes a retriever of a library; its `ask` gives (text, metadata, score) of each piece."""
    pytest.importorskip(LIBRARIES[request.param])
    made = importlib.import_module(f"sharedllm.integrations.{request.param}").SharedLLMRetriever

    def make(memory, **options):
        return made(memory, **{"model": model, "tokenizer": byte_tokenizer(), "score": "bm25"} | options)

    return make


def ask(retriever, question=QUESTION):
    if hasattr(retriever, "invoke"):
        return [(d.page_content, d.metadata, d.metadata["score"]) for d in retriever.invoke(question)]
    return [(n.node.text, n.node.metadata, n.score) for n in retriever.retrieve(question)]


def test_the_piece_that_is_needed_comes_first(retriever, folder):
    (text, where, score), *rest = ask(retriever(folder))
    assert "The Aurora has two masts." in text and where["source"] == "ships"
    assert SHIPS[slice(*where["characters"])] == text == SHIPS[slice(*where["tokens"])]
    assert all(score >= other for _, _, other in rest)
    assert len(ask(retriever(folder, k=1))) == 1 and ask(retriever(folder, k=1))[0][0] == text


def test_memories_in_ram_and_in_a_file(retriever, folder, model, tmp_path):
    memory = model.read(tokenize(byte_tokenizer(), SHIPS), keep_all=True, sources=["ships"])
    save_memory(memory, tmp_path / "file.memory")
    found = [
        ask(retriever(m, k=1))[0][:2]
        for m in (memory, [memory], tmp_path / "file.memory", str(tmp_path / "file.memory"))
    ]
    assert all(f == found[0] for f in found) and found[0][0] in SHIPS


def test_places_are_named(retriever, run, small_folder, tmp_path):
    (tmp_path / "ships.md").write_text(SHIPS)
    assert (
        run("read", tmp_path / "ships.md", "-o", tmp_path / "m.memory", "--keep-all", "--model", small_folder)[0] == 0
    )
    found = ask(retriever(tmp_path / "m.memory", model=str(small_folder), tokenizer=None, k=1))
    assert 'section "Ships"' in found[0][1]["place"]


def test_a_memory_that_changes_is_read_again(retriever, folder, model):
    made = retriever(folder, k=1)
    assert ask(made)[0][1]["source"] == "ships"
    with writing(folder) as writer:
        writer.read(
            model,
            byte_tokenizer(),
            "fleet",
            ["The Aurora, a ship of the fleet, has how many masts? The Aurora has three masts.\n"],
        )
        writer.forget("ships")
        writer.commit()
    assert ask(made)[0][1]["source"] == "fleet"


def test_asked_at_the_same_time(retriever, folder):
    made = retriever(folder, k=1)

    async def both():
        one = made.ainvoke if hasattr(made, "ainvoke") else made.aretrieve
        return await asyncio.gather(*(one(q) for q in [QUESTION, "What jumps over the dog?"] * 4))

    found = asyncio.run(both())
    assert len(found) == 8 and found[0] == found[2] == found[6] and found[1] == found[3] != found[0]


def test_langchain_composes(model, folder):
    pytest.importorskip("langchain_core")
    from langchain_core.runnables import RunnableLambda

    from sharedllm.integrations.langchain import SharedLLMRetriever

    made = SharedLLMRetriever(folder, model, byte_tokenizer(), score="bm25", k=1, tags=["ships"])
    chain = made | RunnableLambda(lambda documents: documents[0].page_content)
    assert "two masts" in chain.invoke(QUESTION) and len(made.batch([QUESTION, "What jumps?"])) == 2


def test_llama_index_shows_prompts_source_and_place(retriever, folder):
    made = retriever(folder, k=1)
    if not hasattr(made, "retrieve"):
        return
    shown = made.retrieve(QUESTION)[0].node.get_content("llm")
    assert "source: ships" in shown and "tokens" not in shown and "two masts" in shown


def test_what_can_not_be_is_refused(retriever, folder, model, tmp_path):
    other = tiny_shared(
        "llama", seed=3, base=tiny_base("llama", seed=3, vocab_size=256), encoding="chunk", injection="joint"
    )
    (tmp_path / "book.txt").write_text(SHIPS)
    ids = tokenize(byte_tokenizer(), SHIPS)
    for memory, options, said in (
        (tmp_path / "nosuch.memory", {}, "nosuch.memory does not exist"),
        (tmp_path / "book.txt", {}, "is no memory: make one with"),
        (3, {}, "an int is no memory"),
        ([], {}, "name at least one memory"),
        (model.read(ids), {}, "does not hold every token"),
        (model.read(ids.repeat(2, 1), keep_all=True), {}, "holds 2 texts: pass one"),
        (folder, {"model": other}, "another model"),
        (other.read(ids, keep_all=True), {}, "another model"),
        (folder, {"tokenizer": None}, "tokenizer is missing"),
        (folder, {"model": 3}, "model is an int"),
        (folder, {"model": "nosuch", "tokenizer": None}, "there is no folder nosuch"),
        (folder, {"k": 0}, "k=0 asks for nothing"),
        (folder, {"budget": -1}, "budget=-1 asks for nothing"),
        (folder, {"score": "best"}, "score='best' is not known"),
    ):
        with pytest.raises(UserError, match=said):
            retriever(memory, **options)
    with pytest.raises(UserError, match="the question is empty"):
        ask(retriever(folder), " ")
    for question in (None, 5, ["Who?"]):
        with pytest.raises(UserError, match=r"question=.* is an? \w+: pass a text"):
            ask(retriever(folder), question)


def test_an_ordinary_model_is_refused_before_its_weights_are_loaded(retriever, folder, no_weights):
    with pytest.raises(
        UserError, match=r"^base is an ordinary LlamaForCausalLM: make a SharedLLM from it with `sharedllm extend`"
    ):
        retriever(folder, model="base")


def test_unknown_options_are_refused(model, folder):
    pytest.importorskip("langchain_core")
    from sharedllm.integrations.langchain import SharedLLMRetriever

    with pytest.raises(UserError, match="top_k=3: no such option; use k, budget"):
        SharedLLMRetriever(folder, model, byte_tokenizer(), top_k=3)


@pytest.mark.parametrize(("module", "extra"), [("langchain", "langchain"), ("llama_index", "llama-index")])
def test_a_missing_library_is_one_line(monkeypatch, module, extra):
    library = LIBRARIES[module]
    for name in [m for m in sys.modules if m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"sharedllm.integrations.{module}", raising=False)
    with pytest.raises(UserError) as said:
        importlib.import_module(f"sharedllm.integrations.{module}")
    assert str(said.value) == f"{library} is not installed: pip install 'sharedllm[{extra}]'."
    assert isinstance(said.value, ImportError)
