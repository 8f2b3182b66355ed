"""Stores: reading into a store equals reading at once, and only the requested changes happen."""

import contextlib
import copy

import pytest
import torch
from helpers import tiny_shared
from stores import TOKENIZER, build, build_on, ids_of, model_of, words

from sharedllm.answering.citations import cite, excerpt
from sharedllm.documents.places import Origin
from sharedllm.memory.fingerprint import Fingerprint
from sharedllm.store import MemoryStore
from sharedllm.store.blocks import BlockFile
from sharedllm.store.writer import writing

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("keep_all", [True, False])
@pytest.mark.parametrize("length", [1, 16, 31, 32, 33, 100, 128])
@torch.no_grad()
def test_a_document_is_what_reading_it_at_once_keeps(tmp_path, model, length, keep_all):
    text = words(length)
    store = build(tmp_path / "a.memory", model, {"text": text}, keep_all=keep_all, piece=7)
    whole = model.read(ids_of(text), keep_all=keep_all)
    loaded = store.load()
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(loaded.tensors()[name], tensor, atol=1e-5, rtol=1e-5)
    assert loaded.sources[0][0]["tokens"] == length and store.documents[0].characters == length
    assert [b.tokens for b in store.documents[0].blocks] == [32] * (length // 32) + [length % 32] * bool(length % 32)


@pytest.mark.parametrize("sizes", [(10, 40), (32, 33), (40, 41, 100), (33, 100, 101), (64, 128)])
@torch.no_grad()
def test_a_document_that_grows(tmp_path, model, sizes):
    """Reading a grown document again reads only the new text and the last block; the result equals reading in one go."""
    text = words(max(sizes))
    for size in sizes:
        with writing(tmp_path / "a.memory") as writer:
            if writer.manifest is None:
                writer.begin(model, "tok")
            held = writer.manifest.documents[0].tokens if writer.manifest.documents else 0
            assert writer.read(model, TOKENIZER, "text", [text[:size]]) == size - held
            assert writer.read(model, TOKENIZER, "text", [text[:size]]) == 0
    grown = MemoryStore.open(tmp_path / "a.memory")
    whole = build(tmp_path / "b.memory", model, {"text": text})
    for name, tensor in whole.load().tensors().items():
        torch.testing.assert_close(grown.load().tensors()[name], tensor, atol=1e-5, rtol=1e-5)
    assert grown.documents[0].sha256 == whole.documents[0].sha256
    assert len(list((tmp_path / "a.memory" / "blocks").iterdir())) == len(whole.documents[0].blocks)


def test_another_text_of_the_same_name_is_refused(tmp_path, model):
    build(tmp_path / "a.memory", model, {"text": words(50)})
    with writing(tmp_path / "a.memory") as writer:
        for other in (words(60, seed=1), words(49)):
            with pytest.raises(ValueError, match="text does not begin with the 50 characters"):
                writer.read(model, TOKENIZER, "text", [other])
    assert MemoryStore.open(tmp_path / "a.memory").tokens == 50


def test_a_text_that_continues_a_file_keeps_its_places(tmp_path, model):
    """Read again without its file, it is the same document; what is added has no place in the file."""
    origin = Origin("0" * 64, "A title", "line", ((0, "page 7"),))
    with writing(tmp_path / "a.memory") as writer:
        writer.begin(model, "tok")
        writer.read(model, TOKENIZER, "a.pdf", [words(40)], origin=origin)
    for length, expected in ((40, origin), (60, Origin("", "A title", "line", ((0, "page 7"), (40, ""))))):
        before = MemoryStore.open(tmp_path / "a.memory").manifest
        build_on(tmp_path / "a.memory", model, {"a.pdf": [words(length)]})
        after = MemoryStore.open(tmp_path / "a.memory").manifest
        assert after.document("a.pdf").origin == expected
        assert (after == before) == (length == 40), "nothing new is not written"


@pytest.mark.parametrize("storage", ["model", "int8"])
@torch.no_grad()
def test_selecting_from_a_store_is_selecting_from_its_texts(tmp_path, model, storage):
    texts = {"one": words(70, 1), "two": words(20, 2), "three": words(100, 3)}
    store = build(tmp_path / "a.memory", model, texts, storage=storage)
    memories = [model.read(ids_of(text), keep_all=True, sources=[name]) for name, text in texts.items()]
    query = ids_of("abc d")
    scores = model.scores(memories, query)
    close = {"atol": 1e-5, "rtol": 1e-4} if storage == "model" else {"atol": 0.05 * float(scores.max()), "rtol": 0.0}
    torch.testing.assert_close(model.scores(store, query), scores, **close)
    for budget in (4, 30, 90, 300):
        ours, theirs = (model.select(source, query, budget=budget, score=scores) for source in (store, memories))
        for name, tensor in theirs.tensors().items():
            near = {"atol": 0.03, "rtol": 0.02} if storage == "int8" and name[:4] in ("keys", "valu") else {}
            torch.testing.assert_close(ours.tensors()[name], tensor, **{"atol": 1e-5, "rtol": 1e-4} | near)
        assert [(s["name"], s["start"]) for s in ours.sources[0]] == [("one", 0), ("two", 80), ("three", 112)][
            : len(ours.sources[0])
        ]


@torch.no_grad()
def test_citations_name_document_and_characters(tmp_path, model):
    texts = {"one": words(70, 1), "two": words(200, 2)}
    chosen = model.select(
        build(tmp_path / "a.memory", model, texts), ids_of("what"), budget=40, gist=0.0,
        score=torch.zeros(1, 280).index_fill(1, torch.arange(80 + 121, 80 + 129), 1.0),
    )  # fmt: skip
    found = cite(chosen, torch.ones(1, 280), most=10)
    assert {c.document for c in found} == {"two"} and any(c.start <= 121 and c.end >= 129 for c in found)
    for citation in found:
        text, start, end = excerpt(TOKENIZER, chosen, citation)
        assert text == texts["two"][start:end] == texts["two"][citation.start : citation.end]


@pytest.mark.parametrize("overlap", [0, 8, 40])
def test_reading_is_bounded(tmp_path, monkeypatch, overlap):
    """For documents of any length and in any pieces, only one block and its overlap are read at once."""
    model, most = model_of(overlap=overlap), []
    real = model.read

    def spied(ids, **options):
        most.append(ids.shape[1])
        return real(ids, **options)

    monkeypatch.setattr(model, "read", spied)
    block, before = max(32, -(-overlap // 16) * 16), -(-overlap // 16) * 16
    for length in (100, 600):
        build(tmp_path / f"{length}.memory", model, {"text": words(length)}, piece=10_000)
        assert max(most) == block + before
        most.clear()


@pytest.mark.parametrize("score", ["attention", "bm25"])
@torch.no_grad()
def test_selecting_reads_only_what_it_needs(tmp_path, monkeypatch, score):
    """Only values of kept tokens are read; of the keys also those of the scoring layers, and none for BM25."""
    model = model_of(injection_map=[[1, 1], [2, 2]], selection_heads=[[2, 0, 1.0]])
    store, query = build(tmp_path / "a.memory", model, {"one": words(200, 1), "two": words(300, 2)}), ids_of("abc d")
    read, real = [], BlockFile._heads

    def spied(block, name, columns):
        read.append((name, None if columns is None else columns.shape[1]))
        return real(block, name, columns)

    monkeypatch.setattr(BlockFile, "_heads", spied)
    chosen = model.select(store, query, budget=40, gist=0.0, score=score)
    assert {name for name, columns in read if columns is None} == ({"keys.1"} if score == "attention" else set())
    borders = torch.tensor([segment.start for segment in store.segments[1:]])
    kept, blocks = int(chosen.kept[0]), len(torch.bucketize(chosen.position[0], borders, right=True).unique())
    assert 0 < kept <= 40 and blocks < len(store.segments) / 2
    for name in ("keys.0", "keys.1", "values.0", "values.1"):
        columns = [columns for n, columns in read if n == name and columns is not None]
        assert sum(columns) == kept and len(columns) == blocks


@torch.no_grad()
def test_forget_and_merge(tmp_path, model):
    texts = {"one": words(70, 1), "two": words(20, 2)}
    build(tmp_path / "a.memory", model, texts)
    build(tmp_path / "b.memory", model, {"three": words(100, 3)})
    build(tmp_path / "same.memory", model, {"two": words(5)})
    build(tmp_path / "tree.memory", model, {"four": words(50)}, keep_all=False)
    opened = MemoryStore.open(tmp_path / "a.memory")
    query = ids_of("abc")
    before = model.scores(opened, query)
    with writing(tmp_path / "a.memory") as writer:
        writer.merge(tmp_path / "b.memory")
        for other, message in (("same", "two is in .* and in"), ("tree", "one holds every token, the other a part")):
            with pytest.raises(ValueError, match=message):
                writer.merge(tmp_path / f"{other}.memory")
        writer.commit()
        writer.forget("one")
        with pytest.raises(ValueError, match="no document is named 'one': the memory holds two, three"):
            writer.forget("one")
    store = MemoryStore.open(tmp_path / "a.memory")
    assert [d.name for d in store.documents] == ["two", "three"]
    expected = build(tmp_path / "c.memory", model, {"two": texts["two"], "three": words(100, 3)})
    torch.testing.assert_close(store.load().keys, expected.load().keys)
    assert [d.tokens for d in MemoryStore.open(tmp_path / "b.memory").documents] == [100]
    assert torch.equal(model.scores(opened, query), before), "an open store does not change"


@torch.no_grad()
def test_merge_over_file_systems(tmp_path, model, monkeypatch):
    """A block that can't be linked is copied; a missing block is reported as lost."""
    store = build(tmp_path / "a.memory", model, {"one": words(70, 1)})

    def refused(*arguments):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    with writing(tmp_path / "b.memory") as writer:
        writer.merge(tmp_path / "a.memory")
        writer.commit()
    torch.testing.assert_close(MemoryStore.open(tmp_path / "b.memory").load().keys, store.load().keys)
    (tmp_path / "a.memory" / "blocks" / f"{store.documents[0].blocks[1].file}.memory").unlink()
    lost = "lacks a block of one: `sharedllm read FILES -o .*a.memory --append` reads it again"
    with writing(tmp_path / "c.memory") as writer, pytest.raises(ValueError, match=lost):
        writer.merge(tmp_path / "a.memory")


@pytest.mark.parametrize(
    "text",
    [
        "é" * 60,
        "ab" + "漢字" * 40,
        pytest.param("".join("a😀é"[i % 3] * (i % 5) for i in range(70)), marks=pytest.mark.slow),
    ],
)
def test_reading_goes_on_at_a_whole_character(tmp_path, model, text):
    """Interrupted anywhere, a document never continues after half of a character."""
    whole = build(tmp_path / "whole.memory", model, {"text": text})
    ids, goes_on = whole.load().token_ids, 0
    for cut in range(1, len(text), 21):
        folder = tmp_path / f"{cut}.memory"

        def cut_off(cut=cut):
            yield from (text[:cut], text[cut : cut + 1])
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_on(folder, model, {"text": cut_off()}, begin=True)
        if folder.exists():
            goes_on += 1
            build_on(folder, model, {"text": [text]})
            store = MemoryStore.open(folder)
            assert torch.equal(store.load().token_ids, ids) and store.documents[0].sha256 == whole.documents[0].sha256
    assert goes_on > 0


def test_slow_tokenizers_read_documents_whole_or_not_at_all(tmp_path, model):
    """Slow tokenizers don't report where a token ends, so an interrupted document starts again."""

    class Slow(type(TOKENIZER)):
        is_fast = False

        def __call__(self, text, return_offsets_mapping, **options):
            assert not return_offsets_mapping
            return super().__call__(text, **options)

    slow, text, folder = copy.deepcopy(TOKENIZER), "é😀 a" * 40, tmp_path / "a.memory"
    slow.__class__ = Slow

    def cut_off():
        yield from (text[:100], text[100:101])
        raise KeyboardInterrupt

    for pieces in (cut_off(), [text]):
        with contextlib.suppress(KeyboardInterrupt), writing(folder) as writer:
            writer.begin(model, "tok")
            writer.read(model, slow, "text", pieces)
    store = MemoryStore.open(folder)
    assert store.load().token_ids.tolist() == ids_of(text).tolist() and store.documents[0].characters == len(text)


def test_bad_requests(tmp_path, model):
    folder = tmp_path / "a.memory"
    build(folder, model, {"one": words(40)})
    other = model_of(chunk_size=8)
    (tmp_path / "file").write_text("text")
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "note").write_text("text")
    with writing(folder) as writer:
        with pytest.raises(ValueError, match="made by another model"):
            writer.read(other, TOKENIZER, "two", ["text"])
        with pytest.raises(ValueError, match="two is empty"):
            writer.read(model, TOKENIZER, "two", [])
    for path, message in (("file", "is a file"), ("things", "other content"), ("no/a.memory", "does not exist")):
        with pytest.raises(ValueError, match=message), writing(tmp_path / path):
            pass
    for options, message in (
        ({"fingerprint": "x"}, "by another model"),
        ({"tokenizer": "x"}, "with another tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            MemoryStore.open(folder, **options)
    with pytest.raises(ValueError, match="is not a memory"):
        MemoryStore.open(tmp_path / "things")
    with pytest.raises(ValueError, match="needs encoding='chunk'"), writing(tmp_path / "b.memory") as writer:
        writer.begin(tiny_shared("llama"), "tok")
    assert not (tmp_path / "b.memory").exists(), "a store that was not begun leaves no files"
    with pytest.raises(ValueError, match="does not hold every token"):
        model.scores(build(tmp_path / "tree.memory", model, {"one": words(40)}, keep_all=False), ids_of("a"))
    empty = build(tmp_path / "none.memory", model, {}, keep_all=False)
    for used in (empty.load, lambda: model.scores(empty, ids_of("a"))):
        with pytest.raises(ValueError, match="holds no readable text"):
            used()


def test_the_fingerprint_is_taken_once_for_a_document(tmp_path, model, monkeypatch):
    """Of a small text it takes a good part of the reading; a block gets the one that was compared."""
    taken, take = [], Fingerprint.of
    monkeypatch.setattr(Fingerprint, "of", lambda *given: taken.append(1) or take(*given))
    with writing(tmp_path / "a.memory") as writer:
        writer.begin(model, "tok")
        taken.clear()
        writer.read(model, TOKENIZER, "text", [words(100)])
    assert len(taken) == 1
    assert MemoryStore.open(tmp_path / "a.memory").load().fingerprint == model.fingerprint()
