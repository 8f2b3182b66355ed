"""Asking a corpus: the documents that are chosen, and answers equal to those over the same documents in a memory."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from corpora import NAMES, documents, run
from stores import TOKENIZER

from sharedllm.answering.ask import ask
from sharedllm.answering.chat import Chat
from sharedllm.answering.retrieve import retrieve
from sharedllm.corpus.corpus import Corpus
from sharedllm.corpus.index import best
from sharedllm.corpus.steps import Steps
from sharedllm.memory.segments import segments_of
from sharedllm.scoring.heads import HeadIndex
from sharedllm.store import is_memory, look, open_memory
from sharedllm.store.writer import writing
from sharedllm.utils.errors import UserError


@pytest.fixture(scope="module", params=["model", "int8"])
def corpus_folder(request, corpus_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    documents(folder / "docs", 12)
    run(corpus_model, folder / "docs", folder / "c", storage=request.param)
    return folder / "c"


@pytest.fixture
def corpus(corpus_folder) -> Corpus:
    return open_memory(corpus_folder)


def asked(model, question: str):
    ids = torch.tensor([TOKENIZER(question).input_ids])
    return model.model, question, ids, torch.ones_like(ids, dtype=torch.bool)


def test_it_is_a_memory(corpus, corpus_folder, model):
    assert is_memory(corpus_folder) and is_memory(f"file://{corpus_folder}")
    assert (corpus.texts, corpus.complete, corpus.damaged) == (1, True, ())
    assert corpus.tokens == sum(d["tokens"] for d in corpus.contents) == int(corpus.kept)
    assert len(corpus.contents) == 12 and corpus.nbytes > corpus.tokens
    label = look(corpus_folder)
    assert (label.kind, label.fingerprint) == ("corpus", model.fingerprint()) and label.state


@pytest.mark.parametrize("name", NAMES[:4])
def test_the_document_with_the_word_is_found(corpus, model, name):
    store = corpus.nearest(*asked(model, f"Where is the {name}?"))
    number = NAMES.index(name)
    ranked = corpus.scores(*asked(model, f"Where is the {name}?"))
    assert corpus.index.names[int(ranked.argmax())].endswith(f"/{number}.txt")
    assert any(d.name.endswith(f"/{number}.txt") for d in store.documents)


def test_answers_are_those_over_the_same_documents(corpus, corpus_folder, model, tmp_path):
    question = "the oak?"
    corpus.documents = 12  # all, whatever the form of a prompt adds to the question's words
    store = corpus.nearest(*asked(model, question))
    with writing(tmp_path / "same.memory") as writer:
        writer.begin(model, corpus.manifest.settings.tokenizer, storage=corpus.manifest.settings.storage)
        for document in store.documents:
            with open(document.name) as file:  # noqa: PTH123
                writer.read(model, TOKENIZER, document.name, [file.read()], batch_tokens=256, origin=document.origin)
    same = open_memory(tmp_path / "same.memory")
    ours, theirs = (ask(model, TOKENIZER, source, question, budget=64, max_new_tokens=4) for source in (corpus, same))
    assert ours.text == theirs.text and ours.sources == theirs.sources and len(ours.sources) > 0
    for name, tensor in theirs.memory.tensors().items():
        assert torch.equal(tensor, ours.memory.tensors()[name]), name


def test_passages_and_chats(corpus, model):
    found = retrieve(model, TOKENIZER, corpus, "elder", budget=100)
    assert "elder".startswith(found[0].text[-1]) and found[0].document.endswith("/3.txt")
    chat = Chat(model, TOKENIZER, corpus, budget=64, max_new_tokens=4)
    turns = [chat.ask("fir?"), chat.ask("oak?"), chat.ask("pine?")]
    assert chat.tokens == corpus.tokens and all(turn.memory.kept[0] > 0 for turn in turns)
    assert chat.history is not None, "the window is small"


def test_threads_that_ask_at_once_take_nothing_from_each_other(corpus_folder, monkeypatch):
    """A server reads passages in other threads than the one that answers; more shards are asked for than stay open."""
    from sharedllm.corpus import corpus as module

    corpus = open_memory(corpus_folder)
    monkeypatch.setattr(module, "_OPEN", 8)
    monkeypatch.setattr(module, "read_part", lambda place, shard: shard)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [*"abcdefghijkl"] * 2000
            assert all(list(pool.map(lambda _: [corpus.part(name) for name in asked] == asked, range(4))))
    finally:
        sys.setswitchinterval(interval)
    assert len(corpus._parts) <= 8 + 4


def test_one_document(corpus):
    store = corpus.only(corpus.index.names[3])
    assert [d.name for d in store.documents] == [corpus.index.names[3]]
    with pytest.raises(UserError, match="no document is named 'none'"):
        corpus.only("none")
    for whole in (corpus.load, lambda: corpus.segments):
        with pytest.raises(UserError, match="is a corpus"):
            whole()


def test_the_summary_is_a_lower_bound_of_what_heads_give(corpus, model):
    """Before the softmax over documents: of one stretch it is the mean key, of one token the key itself."""
    keys, (inner, _, ids, own) = corpus.index.keys, asked(model, "the oak?")
    scores = keys.scores(inner, ids, own)
    assert scores.shape == (12,) and float(scores.sum()) == pytest.approx(1, abs=1e-4)
    segments = segments_of(corpus.only(corpus.index.names[5]))
    from sharedllm.context.pieces import Pieces

    mine = keys.owner == 5
    ends = keys.tokens[mine].long().cumsum(0)
    cut = Pieces(ends - keys.tokens[mine], ends)
    means = HeadIndex(inner, segments, cut, model.config.selection_heads).means()
    torch.testing.assert_close(keys.keys[mine].float(), means, atol=1e-2, rtol=1e-2)


def test_means_of_heads_by_hand(model):
    memory = model.read(torch.arange(48)[None], keep_all=True)
    from sharedllm.context.pieces import Pieces

    cut = Pieces(torch.tensor([0, 20]), torch.tensor([20, 48]))
    alone = Pieces(torch.arange(48), torch.arange(1, 49))
    heads = model.config.selection_heads
    means = HeadIndex(model.model, memory.segments, cut, heads).means()
    every = HeadIndex(model.model, memory.segments, alone, heads).means()
    torch.testing.assert_close(means[0], every[:20].mean(0))
    torch.testing.assert_close(means[1], every[20:].mean(0))


def test_only_ranges_are_read(corpus, model, monkeypatch):
    spans, shards = [], set()
    real = Steps.__call__

    def called(self, wanted):
        spans.extend(end - start for start, end in wanted)
        shards.add(self.name)
        return real(self, wanted)

    monkeypatch.setattr(Steps, "__call__", called)
    corpus.documents = 2
    ask(model, TOKENIZER, corpus, "the oak?", budget=32, max_new_tokens=1)
    assert 0 < sum(spans) < corpus.nbytes / 4 and len(shards) <= 2


def test_the_best_documents_within_their_tokens():
    scores, tokens = torch.tensor([1.0, 5.0, 3.0, 4.0]), torch.tensor([10, 90, 50, 20])
    assert best(scores, tokens, 3, 1000) == [1, 2, 3]
    assert best(scores, tokens, 3, 115) == [1, 3]
    assert best(scores, tokens, 3, 5) == [1], "at least one"


def test_another_models_corpus_is_refused(corpus_folder, corpus, model):
    with pytest.raises(UserError, match="made by another model: fingerprint"):
        open_memory(corpus_folder, fingerprint="other")
    with pytest.raises(UserError, match="with another tokenizer: tokenizer"):
        open_memory(corpus_folder, tokenizer="other")


def test_there_is_none(tmp_path):
    for name in (f"file://{tmp_path}", f"file://{tmp_path}/none"):
        with pytest.raises(UserError, match="holds no corpus"):
            open_memory(name)
    assert not is_memory(tmp_path)


def test_the_commands_take_a_uri(corpus_folder, corpus_model, run):
    uri = f"file://{corpus_folder}"
    code, out, err = run("ask", uri, "oak?", "--model", corpus_model, "--json", "--max-new-tokens", 2)
    assert code == 0 and json.loads(out)["sources"], err
    code, out, err = run("info", uri, "--json")
    assert code == 0 and json.loads(out)["kind"] == "corpus" and json.loads(out)["documents"] == 12, err
    code, _, err = run("ask", f"file://{corpus_folder}/none", "oak?", "--model", corpus_model, "--max-new-tokens", 2)
    assert code == 2 and "holds no corpus" in err
    code, _, err = run("ask", uri, "Where?")
    assert code == 2 and "by another model: fingerprint" in err


def test_memories_of_a_server(corpus_folder):
    from sharedllm.serving.editing import remove_document
    from sharedllm.serving.errors import ServingError
    from sharedllm.serving.memories import Memories

    served = Memories([f"file://{corpus_folder}"])
    assert served.names == ["c"] and served.listed()[0]["tokens"] == served["c"].memory.tokens
    assert served.current("c") is served["c"].memory
    with pytest.raises(ServingError, match="is a corpus"):
        remove_document(served, "c", "x")
