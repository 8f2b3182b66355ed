"""On a full disk the file or folder that has no room is named, not what it was made of."""

import errno
import io
import os
from pathlib import Path

import pytest

FULL = "can't be written, because there is no space left on its disk: free some, then run the same command again."


def full(source=None, target=None):
    """What the system says of a write; of a copy it names both files."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target and str(target))


class FullDisk(io.BytesIO):
    """A file that was made but has no room."""

    def write(self, _):
        full()


def other_disk(source, target):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))


def test_a_merge_does_not_blame_the_memory_it_reads(run, tmp_path, small_folder, monkeypatch):
    memory, merged = tmp_path / "a.memory", tmp_path / "m.memory"
    (tmp_path / "a.txt").write_text("The harbour master counted crates. " * 4)
    assert run("read", tmp_path / "a.txt", "-o", memory, "--model", small_folder)[0] == 0
    monkeypatch.setattr("sharedllm.store.ownership.os.link", other_disk)
    monkeypatch.setattr("sharedllm.store.ownership.shutil.copyfile", full)
    assert run("memory", "merge", memory, "-o", merged) == (2, "", f"error: {merged} {FULL}\n")
    assert not merged.exists()
    (memory / "manifest.json").unlink()
    code, _, err = run("memory", "recover", memory, "-o", merged, "--model", small_folder)
    assert code == 2 and err.endswith(f"error: {merged} {FULL}\n") and not merged.exists()


def test_a_page_without_room_is_named(run, tmp_path, small_folder, monkeypatch):
    text, page = tmp_path / "a.txt", tmp_path / "e.html"
    text.write_text("The harbour master counted crates. ")
    monkeypatch.setattr("sharedllm.utils.files.os.fsync", lambda _: full())
    code, _, err = run("explain", text, "Who?", "-o", page, "--model", small_folder, "--max-new-tokens", 4)
    assert code == 2 and err.endswith(f"error: {page} {FULL}\n") and not page.exists()


@pytest.mark.parametrize("arguments", [["explain", "TEXT", "Who?", "-o", "e.html"], ["extend", "base", "-o", "m"]])
def test_a_disk_that_is_full_is_said_before_any_work(run, tmp_path, no_weights, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("TEXT").write_text("The harbour master counted crates. ")
    monkeypatch.setattr("sharedllm.utils.files.tempfile.TemporaryFile", lambda **_: FullDisk())
    assert run(*arguments) == (2, "", f"error: -o {arguments[-1]} {FULL}\n")
