"""When a writer commits what it has read."""

import pytest
from stores import TOKENIZER, build, words

from sharedllm.store import MemoryStore
from sharedllm.store.writer import writing

pytestmark = pytest.mark.usefixtures("small_blocks")


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


def test_many_small_documents_are_committed_together(tmp_path, model):
    """A manifest names all documents: writing it once per document would take quadratic time."""
    texts = {f"text {i}": words(3, i) for i in range(40)}
    store = build(tmp_path / "a.memory", model, texts)
    assert [d.name for d in store.documents] == list(texts) and all(d.finished for d in store.documents)
    assert store.manifest.generation <= 6 and store.manifest.library


def test_small_documents_are_committed_while_others_are_read(tmp_path, model):
    """Whoever kills the writer finds what is on the disk now."""
    with writing(tmp_path / "a.memory") as writer:
        writer.begin(model, "tok")
        for i in range(10):
            writer.read(model, TOKENIZER, f"text {i}", [words(10, i)])
        store = MemoryStore.open(tmp_path / "a.memory")
        assert [d.name for d in store.documents] == [f"text {i}" for i in range(8)] and not store.damaged
