"""A file gets its name only when its content is on the disk, and then the name itself is flushed too."""

import os
from pathlib import Path

import pytest

from sharedllm.utils.files import put, write_text


@pytest.fixture
def events(monkeypatch):
    """Synchronised names and renames, in order."""
    found, fsync, replace, paths = [], os.fsync, Path.replace, {}
    opened = os.open

    def open_(path, *args, **kwargs):
        paths[descriptor := opened(path, *args, **kwargs)] = Path(path).name
        return descriptor

    monkeypatch.setattr("sharedllm.utils.files.os.open", open_)
    monkeypatch.setattr("sharedllm.utils.files.os.fsync", lambda fd: (found.append(paths[fd]), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (found.append("rename"), replace(a, b))[1])
    return found


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    write_text(tmp_path / "deep" / "a.json", "é\n")
    assert events == [".a.json.part", "rename", "deep"]
    assert (tmp_path / "deep" / "a.json").read_bytes() == "é\n".encode()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, events):
    part = tmp_path / ".model.part"
    (part / "train").mkdir(parents=True)
    (part / "a").write_text("a")
    (part / "train" / "b").write_text("b")
    put(part, tmp_path / "model")
    at = events.index("rename")
    assert sorted(events[:at]) == [".model.part", "a", "b", "train"] and events[at + 1 :] == [tmp_path.name]
    assert (tmp_path / "model" / "train" / "b").read_text() == "b" and not part.exists()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharedllm.utils.files.os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        write_text(path, "new")
    assert error.value.filename == str(path), "a full disk names no file"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
