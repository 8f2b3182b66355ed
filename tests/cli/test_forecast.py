"""What a memory will take on disk is told while it is read, once, where it is much or more than is free."""

from collections import namedtuple
from contextlib import contextmanager

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
    told.tell((), lambda: left)
    assert notes == []
    for _ in range(2):
        told.tell(manifest(A).documents, lambda: left)
    assert notes == ([said] if said else [])


def test_what_was_there_before_does_not_count(folder, monkeypatch):
    notes = []
    monkeypatch.setattr(forecast, "note", lambda line, **_: notes.append(line))
    told = forecast.Forecast(folder, manifest(A))
    told.tell(manifest(A).documents, lambda: 1e9)
    assert notes == []
    (folder / "blocks" / "b.memory").write_bytes(bytes(2 * 10**6))
    told.tell(manifest(A, B).documents, lambda: 4096 * 1000)
    assert notes and notes[0].startswith("about 2.0 GB are still to be written")


@pytest.fixture
def foretold(monkeypatch):
    """The documents, and the tokens that were still to be read, at each step of a reading; and what the bar was moved by."""
    told, moved = [], []
    monkeypatch.setattr(
        reading.Forecast, "tell", lambda self, documents, left: told.append((documents, left(), sum(moved)))
    )

    @contextmanager
    def bar(label, total):
        yield lambda step, total=None: moved.append(step)

    monkeypatch.setattr(reading, "progress_bar", bar)
    return told


def test_a_text_is_measured_by_its_own_tokens(run, tmp_path, small_folder, foretold, monkeypatch):
    """Of the small model's each has one character, so that the usual length is wrong by far."""
    monkeypatch.setattr("sharedllm.store.writer.BLOCK_TOKENS", 256)
    text = "The harbour master counted crates. " * 100
    (tmp_path / "a.txt").write_text(text)
    assert run("read", tmp_path / "a.txt", "-o", tmp_path / "m", "--model", small_folder)[0] == 0
    steps = [step for step in foretold if step[0] and len(step[0][0].blocks) == 3]
    assert steps and steps[0][1] == pytest.approx(len(text) - 768, abs=300)
    assert steps[0][2] == pytest.approx(768, abs=300)
    assert foretold[-1][1:] == (0, len(text))


def test_the_pictures_of_what_is_still_to_come_do_not_count(run, tmp_path, small_folder, foretold):
    text = "".join(f"<p>The harbour master counted crate {i}.</p>" for i in range(100))
    for name in "ab":
        (tmp_path / f"{name}.html").write_text(f"<style>{'a {} ' * 50000}</style><body>{text}</body>")
    (tmp_path / "c.txt").write_text("The harbour master counted crates. " * 100)
    assert run("read", tmp_path, "-o", tmp_path / "m", "--model", small_folder)[0] == 0
    _, second, third = (d.tokens for d in MemoryStore.open(tmp_path / "m").documents)
    # Just before the first page is done, before the second one is opened, and at its beginning.
    after = [left for documents, left, _ in foretold if len(documents) == 1]
    assert after[0] == pytest.approx(third, rel=0.02)
    assert after[1] == pytest.approx(second + third, rel=0.02)
    assert foretold[-1][1:] == (0, sum((tmp_path / name).stat().st_size for name in ("a.html", "b.html", "c.txt")))
