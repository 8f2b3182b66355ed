"""What a memory will take on disk is told while it is read, once, where it is much or more than is free."""

from collections import namedtuple

import pytest

from sharedllm.cli import forecast, reading
from sharedllm.store import MemoryStore
from sharedllm.store.manifest import Block, Document, Manifest

Usage = namedtuple("Usage", "total used free")
FREE = 10**9


def manifest(*blocks, storage="model"):
    return Manifest("", "", 8, 1, True, storage, (Document("a.txt", blocks, ""),) if blocks else ())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A memory of two blocks with 4,096 tokens and a million bytes each, on a disk with a gigabyte free."""
    (tmp_path / "blocks").mkdir()
    for name in "ab":
        (tmp_path / "blocks" / f"{name}.memory").write_bytes(bytes(10**6))
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: Usage(FREE, 0, FREE))
    return tmp_path


A, B = Block("a", 4096, 1, ""), Block("b", 4096, 1, "")


@pytest.mark.parametrize(
    ("left", "storage", "said"),
    [
        (4096 * 10, "model", ""),
        (4096 * 999.5, "model", "about 1.0 GB will be written; 1.0 GB are free"),
        (
            4096 * 2500,
            "model",
            "about 2.5 GB are still to be written, and 1.0 GB are free: stop it with Ctrl-C and free space, or read it with "
            "--storage int8, in half the room",
        ),
        (
            4096 * 2500,
            "int8",
            "about 2.5 GB are still to be written, and 1.0 GB are free: stop it with Ctrl-C and free space",
        ),
        (-1, "model", ""),
    ],
)
def test_what_is_coming(folder, monkeypatch, left, storage, said):
    monkeypatch.setattr(forecast, "WORTH", FREE * 0.999)
    notes = []
    monkeypatch.setattr(forecast, "note", lambda line, **_: notes.append(line))
    told = forecast.Forecast(folder, manifest(storage=storage))
    told.tell((), left)
    assert notes == []
    for _ in range(2):
        told.tell(manifest(A).documents, left)
    assert notes == ([said] if said else [])


def test_what_was_there_before_does_not_count(folder, monkeypatch):
    notes = []
    monkeypatch.setattr(forecast, "note", lambda line, **_: notes.append(line))
    told = forecast.Forecast(folder, manifest(A))
    told.tell(manifest(A).documents, 1e9)
    assert notes == []
    (folder / "blocks" / "b.memory").write_bytes(bytes(2 * 10**6))
    told.tell(manifest(A, B).documents, 4096 * 1000)
    assert notes and notes[0].startswith("about 2.0 GB are still to be written")


def test_the_forecast_comes_true(run, tmp_path, small_folder, monkeypatch):
    """Of a web page, most of whose bytes are not its text."""
    monkeypatch.setattr(forecast, "TOKENS", 100)
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: Usage(FREE, 0, 0))
    foretold = []
    monkeypatch.setattr(reading.Forecast, "tell", lambda self, documents, left: foretold.append((documents, left)))
    text = "".join(f"<p>The harbour master counted crate {i}.</p>" for i in range(100))
    for name in "ab":
        (tmp_path / f"{name}.html").write_text(f"<style>{'a {} ' * 5000}</style><body>{text}</body>")
    assert run("read", tmp_path / "a.html", tmp_path / "b.html", "-o", tmp_path / "m", "--model", small_folder)[0] == 0
    tokens = MemoryStore.open(tmp_path / "m").tokens
    assert foretold[0][1] < tokens  # three times that by the bytes of the files
    done = next(left for documents, left in foretold if documents and documents[0].finished)
    assert done == pytest.approx(tokens / 2, rel=0.01)
    assert foretold[-1][1] == 0
