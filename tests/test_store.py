"""Stores: what is read into one is what would have been read at once, and what is committed is never lost."""

import contextlib
import copy
import json
import os
import random
import signal
import time
from collections.abc import Iterable

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared

from sharedllm.selection.cite import cite, excerpt
from sharedllm.store import MemoryStore, edit
from sharedllm.store.blocks import BlockFile
from sharedllm.store.edit import writing

TOKENIZER = byte_tokenizer()


def model_of(**settings):
    base = tiny_base("llama", vocab_size=256)
    return tiny_shared("llama", base=base, **{"injection": "joint", "encoding": "chunk", "overlap": 8} | settings)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(edit, "BLOCK_TOKENS", 32)


def words(length: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("abcdefgh  \n") for _ in range(length))


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([TOKENIZER(text).input_ids])


def build(folder, model, texts: dict[str, str], *, piece: int = 1000, **settings) -> MemoryStore:
    with writing(folder) as writer:
        writer.begin(model, "tok", **settings)
        for name, text in texts.items():
            writer.read(model, TOKENIZER, name, (text[i : i + piece] for i in range(0, len(text), piece)))
        if not texts:
            writer.commit()
    return MemoryStore.open(folder, fingerprint=model.fingerprint(), tokenizer="tok")


def build_on(folder, model, texts: dict[str, Iterable[str]], begin: bool = False) -> None:
    with writing(folder) as writer:
        if begin:
            writer.begin(model, "tok")
        for name, pieces in texts.items():
            writer.read(model, TOKENIZER, name, pieces)


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
    """Read again after it has grown, only what is new and the last block are read; the result is that of one go."""
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
    for budget in (1, 30, 90, 300):
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
    """However long a document is, and whatever pieces it comes in, one block and what it overlaps with are read at once."""
    model, most = model_of(overlap=overlap), []
    real = model.read

    def spied(ids, **options):
        most.append(ids.shape[1])
        return real(ids, **options)

    monkeypatch.setattr(model, "read", spied)
    block, before = max(32, -(-overlap // 16) * 16), -(-overlap // 16) * 16
    for length in (100, 2000):
        build(tmp_path / f"{length}.memory", model, {"text": words(length)}, piece=10_000)
        assert max(most) == block + before
        most.clear()


@pytest.mark.parametrize("score", ["attention", "bm25"])
@torch.no_grad()
def test_selecting_reads_only_what_it_needs(tmp_path, monkeypatch, score):
    """Of the values those that are kept; of the keys besides those the layers that choose, and none for BM25."""
    model = model_of(injection_map=[[1, 1], [2, 2]], selection_heads=[[2, 0, 1.0]])
    store, query = build(tmp_path / "a.memory", model, {"one": words(200, 1), "two": words(300, 2)}), ids_of("abc d")
    read, real = [], BlockFile._heads

    def spied(block, name, columns):
        read.append((name, None if columns is None else columns.shape[1]))
        return real(block, name, columns)

    monkeypatch.setattr(BlockFile, "_heads", spied)
    chosen = model.select(store, query, budget=40, gist=0.0, score=score)
    assert {name for name, columns in read if columns is None} == ({"keys.1"} if score == "attention" else set())
    borders = torch.tensor([part.start for part in store.parts[1:]])
    kept, blocks = int(chosen.kept[0]), len(torch.bucketize(chosen.position[0], borders, right=True).unique())
    assert 0 < kept <= 40 and blocks < len(store.parts) / 2
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
        for other, message in (("same", "two is in .* and in"), ("tree", "complete=False")):
            with pytest.raises(ValueError, match=message):
                writer.merge(tmp_path / f"{other}.memory")
        writer.commit()
        writer.forget("one")
        with pytest.raises(ValueError, match="no document is named 'one': there are two, three"):
            writer.forget("one")
    store = MemoryStore.open(tmp_path / "a.memory")
    assert [d.name for d in store.documents] == ["two", "three"]
    expected = build(tmp_path / "c.memory", model, {"two": texts["two"], "three": words(100, 3)})
    torch.testing.assert_close(store.load().keys, expected.load().keys)
    assert [d.tokens for d in MemoryStore.open(tmp_path / "b.memory").documents] == [100]
    assert torch.equal(model.scores(opened, query), before), "a store that is open stays as it was opened"


@torch.no_grad()
def test_merge_over_file_systems(tmp_path, model, monkeypatch):
    """Where a block can't be linked it is copied; one that is not there is said to be lost."""
    store = build(tmp_path / "a.memory", model, {"one": words(70, 1)})

    def refused(*arguments):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    with writing(tmp_path / "b.memory") as writer:
        writer.merge(tmp_path / "a.memory")
        writer.commit()
    torch.testing.assert_close(MemoryStore.open(tmp_path / "b.memory").load().keys, store.load().keys)
    (tmp_path / "a.memory" / "blocks" / f"{store.documents[0].blocks[1].file}.memory").unlink()
    with writing(tmp_path / "c.memory") as writer, pytest.raises(ValueError, match="has lost a block of one"):
        writer.merge(tmp_path / "a.memory")


def test_begin_again_keeps_the_old_store_until_it_is_committed(tmp_path, model):
    build(tmp_path / "a.memory", model, {"one": words(70)})
    with writing(tmp_path / "a.memory") as writer:
        writer.begin(model, "tok")
        writer.read(model, TOKENIZER, "two", [words(100, 2)])
        assert [d.name for d in MemoryStore.open(tmp_path / "a.memory").documents] == ["one"]
        writer.commit()
    store = MemoryStore.open(tmp_path / "a.memory")
    assert [d.name for d in store.documents] == ["two"] and not store.damaged
    assert len(list((tmp_path / "a.memory" / "blocks").iterdir())) == 4


@torch.no_grad()
def test_a_damaged_block_is_found_and_only_it_is_lost(tmp_path, model):
    texts = {"one": words(70, 1), "two": words(40, 2)}
    folder, query = tmp_path / "a.memory", ids_of("abc")
    store = build(folder, model, texts)
    scores = model.scores(store, query, score="attention")
    whole = model.select(store, query, budget=500, score=scores)
    blocks = [(d.name, b, 32 * i) for d in store.documents for i, b in enumerate(d.blocks)]
    rng, slot = random.Random(0), 0
    for name, block, start in blocks:
        path = folder / "blocks" / f"{block.file}.memory"
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        other = (folder / "blocks" / f"{blocks[0 if block is not blocks[0][1] else 1][1].file}.memory").read_bytes()
        for content in (bytes(bad), good[:-1], b"", other, None):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            opened = MemoryStore.open(folder)
            ((lost, begin, end),) = [(d.document, d.start, d.end) for d in opened.damaged]
            assert (lost, begin, end) == (name, start, start + block.tokens)
            assert model.scores(opened, query, score="attention").isfinite().all()
            kept = model.select(opened, query, budget=500, score="attention")
            inside = (whole.position[0] < slot) | (whole.position[0] >= slot + block.tokens)
            assert torch.equal(kept.position[0], whole.position[0][inside])
            assert torch.equal(kept.keys[0], whole.keys[0][:, :, inside])
        path.write_bytes(good)
        slot += -(-block.tokens // 16) * 16
    assert not MemoryStore.open(folder).damaged


@torch.no_grad()
def test_citations_of_a_document_that_lost_its_beginning(tmp_path, model):
    """Its tokens and characters are counted from where it began."""
    texts, folder = {"one": words(40, 1), "two": words(100, 2), "three": words(40, 3)}, tmp_path / "a.memory"
    blocks = [b for d in build(folder, model, texts).documents for b in d.blocks]
    for lost in (0, 2):  # the first blocks of "one" and "two"
        (folder / "blocks" / f"{blocks[lost].file}.memory").unlink()
    store = MemoryStore.open(folder)
    for chosen in (model.select(store, ids_of("what"), budget=500, score="bm25"), store.load()):
        starts = [(s["name"], s["start"]) for s in chosen.sources[0]]
        assert starts == [("one", 0), ("two", 48), ("three", 160)]
        found = cite(chosen, torch.ones(1, 200), most=10)
        assert sorted((c.document, c.start, c.end) for c in found) == [
            ("one", 32, 40), ("three", 0, 40), ("two", 32, 100),
        ]  # fmt: skip
        for citation in found:
            text, start, end = excerpt(TOKENIZER, chosen, citation)
            assert text == texts[citation.document][start:end]
            assert (start, end) == (citation.start, citation.end)


def test_fuzzed_manifests_are_never_believed(tmp_path, model):
    folder = tmp_path / "a.memory"
    build(folder, model, {"one": words(70, 1)})
    path = folder / "manifest.json"
    good, rng = path.read_bytes(), random.Random(1)
    for _ in range(200):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 1, 3])):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        cut = bytes(bad[: rng.choice([len(bad), rng.randrange(len(bad))])])
        path.write_bytes(cut)
        try:
            opened, message = MemoryStore.open(folder), None
        except ValueError as error:
            opened, message = None, str(error)
        if opened is None:
            assert message.startswith(str(path)) and "\n" not in message
        else:
            assert json.loads(cut) == json.loads(good) and opened.tokens == 70
    path.write_bytes(json.dumps(json.loads(good) | {"format_version": 2}).encode())
    with pytest.raises(ValueError, match="format_version=2, this package reads 1: upgrade"):
        MemoryStore.open(folder)


def test_many_small_documents_are_committed_together(tmp_path, model):
    """A manifest names all documents: written once for each of them, it would take the time of their number squared."""
    texts = {f"text {i}": words(3, i) for i in range(40)}
    store = build(tmp_path / "a.memory", model, texts)
    assert [d.name for d in store.documents] == list(texts) and all(d.finished for d in store.documents)
    assert store.manifest.generation <= 6 and store.manifest.library


def test_what_was_read_is_kept_when_the_next_text_fails(tmp_path, model):
    folder = tmp_path / "a.memory"
    with pytest.raises(ValueError, match="two is empty"):
        build_on(folder, model, {"one": ["word"], "two": []}, begin=True)
    assert [d.name for d in MemoryStore.open(folder).documents] == ["one"]


@pytest.mark.parametrize("text", ["é" * 60, "ab" + "漢字" * 40, "".join("a😀é"[i % 3] * (i % 5) for i in range(70))])
def test_reading_goes_on_at_a_whole_character(tmp_path, model, text):
    """Cut off anywhere, a document never goes on behind half of a character."""
    whole = build(tmp_path / "whole.memory", model, {"text": text})
    ids, goes_on = whole.load().token_ids, 0
    for cut in range(1, len(text), 7):
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
    """They don't say where a token ends, so a document that was cut off begins anew."""

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


def test_a_writer_killed_at_its_first_commit_is_in_nobodys_way(tmp_path, model):
    folder = tmp_path / "a.memory"
    folder.mkdir()
    (folder / ".manifest.json.part").write_text("{")
    assert build(folder, model, {"one": words(40)}).tokens == 40


def test_one_writer_at_a_time(tmp_path, model):
    with writing(tmp_path / "a.memory") as first:
        first.begin(model, "tok")
        with pytest.raises(ValueError, match="is being written by another process"), writing(tmp_path / "a.memory"):
            pass
    with writing(tmp_path / "a.memory"):
        pass


def test_a_reader_that_is_overtaken_reads_the_newer_store(tmp_path, model, monkeypatch):
    """Blocks that went away between the manifest and their opening are not damage."""
    from sharedllm.store import store as module

    folder = tmp_path / "a.memory"
    build(folder, model, {"one": words(70, 1)})
    real, calls = module._open_blocks, []

    def overtaken(*arguments):
        if not calls:
            calls.append(1)
            with writing(folder) as writer:
                writer.read(model, TOKENIZER, "one", [words(70, 1) + words(9, 2)])
        return real(*arguments)

    monkeypatch.setattr(module, "_open_blocks", overtaken)
    store = MemoryStore.open(folder)
    assert store.tokens == 79 and not store.damaged


def test_a_block_that_goes_away_while_it_is_opened_is_not_damage(tmp_path, model, monkeypatch):
    from sharedllm.store import blocks as module

    folder = tmp_path / "a.memory"
    build(folder, model, {"one": words(20, 1), "two": words(40, 2)})
    real, calls = module.open_tensors, []

    def overtaken(*arguments):
        if not calls:
            calls.append(1)
            with writing(folder) as writer:
                writer.forget("one")
        return real(*arguments)

    monkeypatch.setattr(module, "open_tensors", overtaken)
    store = MemoryStore.open(folder)
    assert store.tokens == 40 and not store.damaged


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path, model):
    """SIGKILL at any moment of reading: what was committed is there, whole and right, and reading goes on."""
    folder, text, rng = tmp_path / "a.memory", words(3000, 4), random.Random(2)
    build(folder, model, {"first": words(100, 5)})
    torch.set_num_threads(1)
    model.fingerprint()
    started, killed, tokens = time.perf_counter(), 0, 0
    while killed < 100:
        child = os.fork()
        if child == 0:
            try:
                with writing(folder) as writer:
                    names = {d.name: d for d in writer.manifest.documents}
                    if "text" in names and names["text"].finished:
                        writer.forget("text")
                    writer.read(model, TOKENIZER, "text", [text])
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        store = MemoryStore.open(folder, fingerprint=model.fingerprint())
        assert not store.damaged and store.documents[0].tokens == 100
        if len(store.documents) == 2:
            document = store.documents[1]
            assert store.load().token_ids[0, 112:].tolist() == ids_of(text)[0, : document.tokens].tolist()
            assert document.finished == (document.tokens == 3000) or document.tokens == 3000
            tokens = max(tokens, document.tokens)
        assert time.perf_counter() - started < 600
    assert tokens > 0
    with writing(folder) as writer:
        writer.read(model, TOKENIZER, "text", [text])
    whole = build(tmp_path / "b.memory", model, {"text": text})
    ours = MemoryStore.open(folder).load().slice(112, 3112)
    torch.testing.assert_close(ours.keys, whole.load().keys, atol=1e-5, rtol=1e-5)


def test_disk_full_leaves_the_old_store(tmp_path, model, monkeypatch):
    build(tmp_path / "a.memory", model, {"one": words(70, 1)})

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sharedllm.memory_file.save_file", full)
        with writing(tmp_path / "a.memory") as writer, pytest.raises(OSError, match="No space left"):
            writer.read(model, TOKENIZER, "two", [words(50, 2)])
    store = MemoryStore.open(tmp_path / "a.memory")
    assert [d.name for d in store.documents] == ["one"] and not store.damaged


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
    for path, message in (("file", "is a file"), ("things", "other things in it"), ("no/a.memory", "does not exist")):
        with pytest.raises(ValueError, match=message), writing(tmp_path / path):
            pass
    for options, message in (
        ({"fingerprint": "x"}, "by another model"),
        ({"tokenizer": "x"}, "with another tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            MemoryStore.open(folder, **options)
    with pytest.raises(ValueError, match="is no memory"):
        MemoryStore.open(tmp_path / "things")
    with pytest.raises(ValueError, match="needs encoding='chunk'"), writing(tmp_path / "b.memory") as writer:
        writer.begin(tiny_shared("llama"), "tok")
    assert not (tmp_path / "b.memory").exists(), "what was not begun leaves nothing"
    with pytest.raises(ValueError, match="does not hold every token"):
        model.scores(build(tmp_path / "tree.memory", model, {"one": words(40)}, keep_all=False), ids_of("a"))
    with pytest.raises(ValueError, match="holds no readable text"):
        build(tmp_path / "none.memory", model, {}).load()
