"""Temporary folders of writers: those of killed ones are removed, and no others."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from memories import random_memory

from sharedllm.memory import file
from sharedllm.memory.file import save_memory
from sharedllm.utils import scratch as module
from sharedllm.utils.scratch import is_scratch, scratch, sweep, whole_folder

HOLDING = "import sys, pathlib; from sharedllm.utils.scratch import scratch\n"
HOLDING += "with scratch(*map(pathlib.Path, sys.argv[1:])) as f: print(f, flush=True); input()"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def holder(*within: Path) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, *map(str, within)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_nothing_stays_of_a_reader_that_ends(temporary):
    with scratch() as folder:
        (folder / "blocks").mkdir()
    with pytest.raises(RuntimeError), scratch():
        raise RuntimeError
    assert folder.parent == temporary and not any(temporary.iterdir())


def test_in_a_corpus_only_what_is_dead_and_of_this_machine_is_removed(temporary):
    corpus = temporary / "corpus"
    corpus.mkdir()
    sweep(temporary / "none")
    (killed, dead), (living, kept) = holder(corpus), holder(corpus)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    elsewhere = Path(dead.replace("@", "@of-another-", 1))
    shutil.copytree(dead, elsewhere)
    for name in (".corpus.json.1a2b3c4d", ".writing@", "object"):
        (corpus / name).write_text("not known to be ours")
    before = {path.name for path in corpus.iterdir()}
    sweep()
    assert Path(dead).exists(), "another folder is asked for"
    sweep(corpus)
    gone = before - {path.name for path in corpus.iterdir()}
    living.communicate("\n", timeout=30)
    assert gone == {Path(dead).name} and elsewhere.exists() and not Path(kept).exists()


@pytest.mark.parametrize("error", [NotImplementedError, OSError(errno.ENOLCK, "No locks available")])
def test_a_disk_without_locks_can_be_written_to(temporary, monkeypatch, error):
    tried = []

    def none(*_, **__):
        tried.append(1)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("filelock.FileLock.acquire", none)
        with scratch(temporary) as folder:
            assert len(tried) == 1, "it is tried once"
            (folder / "object").write_text("a")
            assert [path.name for path in temporary.iterdir()] == [folder.name]
            sweep(temporary)
            assert (folder / "object").read_text() == "a", "without a lock nothing shows that its writer is dead"
    assert not any(temporary.iterdir())


def test_only_what_is_dead_is_removed(temporary):
    (killed, dead), (living, kept) = holder(), holder()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (temporary / "sharedllm-shard-others").mkdir()
    (temporary / "sharedllm-shard-others" / "text").write_text("not ours")
    (temporary / "sharedllm-shard-empty").mkdir()
    (temporary / "away").mkdir()
    (temporary / "away" / "lock").touch()
    (temporary / "sharedllm-shard-link").symlink_to(temporary / "away")
    before = {path.name for path in temporary.iterdir()}
    sweep()
    gone = before - {path.name for path in temporary.iterdir()}
    living.communicate("\n", timeout=30)
    assert gone == {os.path.basename(dead), "sharedllm-shard-empty"}  # noqa: PTH119
    assert not os.path.exists(kept) and (temporary / "away" / "lock").exists()  # noqa: PTH110


def test_a_killed_save_leaves_nothing_after_the_next_one(temporary, monkeypatch):
    """Of this process, too, the first one in a folder sweeps it, and no other: a folder of many memories is not listed for each."""
    folder = temporary / "memories"
    folder.mkdir()
    killed, dead = holder(folder)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (folder / "notes.memory.tmp0123abcd").mkdir()
    looked, real = [], module.sweep
    monkeypatch.setattr(module, "sweep", lambda *given: (looked.append(given), real(*given)))
    for name in ("a.memory", "b.memory"):
        save_memory(random_memory([9, 4]), folder / name)
    assert not Path(dead).exists() and looked == [(folder,)]
    assert sorted(path.name for path in folder.iterdir()) == ["a.memory", "b.memory", "notes.memory.tmp0123abcd"]


def test_names_of_scratch_folders(temporary):
    with scratch(temporary) as folder:
        assert is_scratch(folder.name)
    assert not any(map(is_scratch, (".writing@", ".writing@host", "writing@host@a1", ".corpus.json.part")))


def test_a_folder_is_whole_or_as_it_was(tmp_path):
    final = tmp_path / "deep" / "model"
    with whole_folder(final) as made:
        (made / "a").write_text("a")
        assert not final.exists()
    with pytest.raises(FileNotFoundError), whole_folder(final) as made:
        (made / "nowhere" / "b").write_text("b")
    assert [path.name for path in final.iterdir()] == ["a"] and list(final.parent.iterdir()) == [final]
    with whole_folder(final) as made:
        (made / "b").write_text("b")
    assert [path.name for path in final.iterdir()] == ["b"]


def test_what_is_called_as_the_lock_does_not_take_its_place(tmp_path, monkeypatch):
    with whole_folder(tmp_path / "model" / "lock") as made:
        (made / "a").write_text("a")
    assert [path.name for path in (tmp_path / "model" / "lock").iterdir()] == ["a"]
    held, real = [], file.put

    def put(made, final):
        real(made, final)
        held.append((made.parent / "lock").exists())

    monkeypatch.setattr(file, "put", put)
    save_memory(random_memory([9, 4]), tmp_path / "lock")
    assert held == [True] and (tmp_path / "lock").is_file()


@pytest.mark.parametrize("named", ["mounted", "."])
def test_an_empty_folder_is_filled_and_stays_the_same(tmp_path, monkeypatch, named):
    final = tmp_path / "mounted"
    final.mkdir()
    monkeypatch.chdir(final if named == "." else tmp_path)
    before = final.stat().st_ino
    with whole_folder(Path(named)) as made:
        (made / "train").mkdir()
        (made / "train" / "a").write_text("a")
        (made / "manifest.json").write_text("{}")
    assert final.stat().st_ino == before and list(tmp_path.iterdir()) == [final]
    assert sorted(path.name for path in final.iterdir()) == ["manifest.json", "train"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
def test_files_can_be_read_by_whoever_may_read_the_folder(tmp_path):
    with whole_folder(tmp_path / "model") as made:
        (made / "weights").touch(mode=0o600)
    mode = (tmp_path / "model").stat().st_mode
    assert (tmp_path / "model" / "weights").stat().st_mode & 0o777 == mode & 0o666
