"""Temporary folders of readers: those of killed ones are removed, and no others."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sharedllm.corpus.scratch import scratch, sweep

HOLDING = "import sys, pathlib; from sharedllm.corpus.scratch import scratch\n"
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


def test_a_disk_without_locks_can_be_written_to(temporary, monkeypatch):
    def none(*_, **__):
        raise NotImplementedError

    with monkeypatch.context() as patched:
        patched.setattr("filelock.FileLock.acquire", none)
        with scratch(temporary) as folder:
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
