"""Stores that are damaged, killed or overtaken: committed data is never lost, and nothing else is trusted."""

import json
import os
import random
import signal
import time

import pytest
import torch
from stores import TOKENIZER, build, build_on, ids_of, words

from sharedllm.answering.citations import cite, excerpt
from sharedllm.store import MemoryStore
from sharedllm.store.writer import writing

pytestmark = pytest.mark.usefixtures("small_blocks")


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
    """Tokens and characters are counted from the document's beginning."""
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


def test_what_was_read_is_kept_when_the_next_text_fails(tmp_path, model):
    folder = tmp_path / "a.memory"
    with pytest.raises(ValueError, match="two is empty"):
        build_on(folder, model, {"one": ["word"], "two": []}, begin=True)
    assert [d.name for d in MemoryStore.open(folder).documents] == ["one"]


def test_a_writer_killed_at_its_first_commit_is_in_nobodys_way(tmp_path, model):
    folder = tmp_path / "a.memory"
    folder.mkdir()
    (folder / ".manifest.json.part").write_text("{")
    assert build(folder, model, {"one": words(40)}).tokens == 40


@pytest.mark.parametrize("left", [[".tmpAb3dE6"], ["block.memory", "lock"], []])
@pytest.mark.parametrize("name", [f"{'0f' * 16}.memory.tmp0123abcd", ".writing@another-machine@ab12_x9z"])
def test_a_writer_killed_inside_a_block_leaves_nothing(tmp_path, model, left, name):
    """The library that writes a block gives it a temporary name of its own; the next writer clears that away too, as the memory's
    lock is its own now."""
    folder = tmp_path / "a.memory"
    build(folder, model, {"one": words(40, 1)})
    begun, foreign = folder / "blocks" / name, folder / "blocks" / "mine.tmp0123abcd"
    for place in (begun, foreign):
        place.mkdir()
        for name in left:
            (place / name).write_bytes(b"half a block")
    build_on(folder, model, {"two": words(40, 2)})
    assert not begun.exists() and foreign.is_dir()
    assert [d.name for d in MemoryStore.open(folder).documents] == ["one", "two"]


def test_a_memory_is_written_inside_a_folder_of_its_own(tmp_path, model, monkeypatch):
    from sharedllm.memory import file as module

    real, seen = module.save_file, []

    def watched(tensors, path, **options):
        seen.extend(p.name for p in path.parent.parent.iterdir())
        real(tensors, path, **options)
        assert sorted(p.name for p in path.parent.iterdir()) == ["lock", "made"]

    monkeypatch.setattr(module, "save_file", watched)
    module.save_memory(model.read(ids_of("a short text")), tmp_path / "one.memory")
    assert len(seen) == 1 and seen[0].startswith(".writing@")
    assert [p.name for p in tmp_path.iterdir()] == ["one.memory"]


def test_one_writer_at_a_time(tmp_path, model):
    with writing(tmp_path / "a.memory") as first:
        first.begin(model, "tok")
        with pytest.raises(ValueError, match="is being written by another process"), writing(tmp_path / "a.memory"):
            pass
    with writing(tmp_path / "a.memory"):
        pass


def test_a_reader_that_is_overtaken_reads_the_newer_store(tmp_path, model, monkeypatch):
    """Blocks removed between reading the manifest and opening them are not damage."""
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
    real, calls = module.opened, []

    def overtaken(*arguments):
        if not calls:
            calls.append(1)
            with writing(folder) as writer:
                writer.forget("one")
        return real(*arguments)

    monkeypatch.setattr(module, "opened", overtaken)
    store = MemoryStore.open(folder)
    assert store.tokens == 40 and not store.damaged


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path, model):
    """SIGKILL at any moment of reading: committed data is complete and right, and reading continues."""
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
        patch.setattr("sharedllm.memory.file.save_file", full)
        with writing(tmp_path / "a.memory") as writer, pytest.raises(OSError, match="No space left"):
            writer.read(model, TOKENIZER, "two", [words(50, 2)])
    store = MemoryStore.open(tmp_path / "a.memory")
    assert [d.name for d in store.documents] == ["one"] and not store.damaged
