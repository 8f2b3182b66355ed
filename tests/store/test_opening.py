"""`open_memory`: a file or a folder, one interface, and one clear message for anything else."""

import pytest
import torch
from stores import build, ids_of, model_of, words

from sharedllm import ContextMemory, open_memory, save_memory
from sharedllm.integrations.finder import Finder
from sharedllm.memory.interface import Memory
from sharedllm.store import MemoryStore, is_memory, look
from sharedllm.store.writer import writing
from sharedllm.utils.errors import UserError

SURFACE = [name for name in vars(Memory) if not name.startswith("_")]
TEXT = words(100)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def paths(model, tmp_path_factory):
    """The same text as a file and as a folder."""
    folder = tmp_path_factory.mktemp("memories")
    with torch.no_grad():
        memory = model.read(ids_of(TEXT), keep_all=True, sources=["text"])
    save_memory(memory, folder / "file.memory", tokenizer="tok")
    save_memory(memory, folder / "unmarked.memory")
    build(folder / "folder.memory", model, {"text": TEXT})
    return folder


@torch.no_grad()
def test_a_file_and_a_folder_are_asked_alike(model, paths):
    marks = {"fingerprint": model.fingerprint(), "tokenizer": "tok"}
    file, folder = (open_memory(paths / f"{name}.memory", **marks) for name in ("file", "folder"))
    assert isinstance(file, ContextMemory) and isinstance(folder, MemoryStore)
    for name in set(SURFACE) - {"segments", "load", "contents", "nbytes", "damaged", "kept"}:
        assert getattr(file, name) == getattr(folder, name), name
    assert (file.texts, file.tokens, file.kept.tolist(), folder.kept.tolist()) == (1, 100, [100], [100])
    assert [(c["name"], c["tokens"]) for c in file.contents] == [(c["name"], c["tokens"]) for c in folder.contents]
    assert list(file.damaged) == list(folder.damaged) == [] and min(file.nbytes, folder.nbytes) > 0
    question = ids_of("abc?")
    a, b = (model.select(memory, question, budget=40, score="bm25") for memory in (file, folder))
    assert torch.equal(a.position, b.position) and a.position.numel() > 0
    for name, tensor in file.load().tensors().items():
        torch.testing.assert_close(folder.load().tensors()[name], tensor, atol=1e-5, rtol=1e-5)


def test_progress_tells_how_much_there_is(paths):
    for name in ("file", "folder"):
        seen = []
        open_memory(paths / f"{name}.memory", progress=lambda new, total, seen=seen: seen.append((new, total)))
        assert sum(new for new, _ in seen) == 100 and {total for _, total in seen} == {100}


def test_what_is_known_before_it_is_opened(model, paths):
    labels = {name: look(paths / f"{name}.memory") for name in ("file", "unmarked", "folder")}
    assert [(x.kind, x.tokenizer, x.storage) for x in labels.values()] == [
        ("memory file", "tok", "model"),
        ("memory file", "", "model"),
        ("memory", "tok", "model"),
    ]
    assert {x.fingerprint for x in labels.values()} == {model.fingerprint()}
    assert labels["file"] != labels["unmarked"] and look(paths / "folder.memory") == labels["folder"]


@pytest.mark.parametrize("name", ["file", "folder"])
def test_another_model_or_tokenizer(paths, name):
    for marks, message in (({"fingerprint": "x"}, "by another model"), ({"tokenizer": "x"}, "with another tokenizer")):
        with pytest.raises(ValueError, match=message):
            open_memory(paths / f"{name}.memory", **marks)
    # A file that was saved without its tokenizer can't be compared.
    assert open_memory(paths / "unmarked.memory", tokenizer="x").tokens == 100


def test_anything_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    for path, message in (
        ("none.memory", r"none.memory does not exist: check the name, or make it with `sharedllm read`"),
        ("notes.txt", "is not a memory"),
        (".", "is not a memory: it has no manifest.json"),
    ):
        with pytest.raises(ValueError, match=message):
            open_memory(tmp_path / path)


def test_what_is_meant_as_a_memory(paths, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    (paths / "folder.memory").rename(tmp_path / "folder")
    assert is_memory(paths / "file.memory") and is_memory(tmp_path / "folder") and is_memory("none.memory")
    assert not any(is_memory(name) for name in (tmp_path / "notes.txt", tmp_path, "-"))
    (tmp_path / "folder").rename(paths / "folder.memory")


@pytest.mark.parametrize("path", [5, None, b"a.memory", ["a.memory"]])
def test_what_is_no_path_is_named(path):
    for use in (open_memory, lambda path: save_memory(None, path)):
        with pytest.raises(UserError, match=r"^path=.* is an? \w+: pass a path, as a text or a Path\.$"):
            use(path)


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(folder):
        with writing(folder):
            pass

    for use in (open_memory, is_memory, look, MemoryStore.open, write, lambda path: save_memory(None, path), Finder):
        with pytest.raises(UserError, match=r"^\w+='' is empty: name a file or a folder"):
            use("")
    assert not list(tmp_path.iterdir())
