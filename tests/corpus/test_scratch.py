"""Temporary folders of readers: those of killed ones are removed, and no others."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from sharedllm.corpus.scratch import scratch, sweep

HOLDING = "from sharedllm.corpus.scratch import scratch\nwith scratch() as f: print(f, flush=True); input()"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def holder() -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_nothing_stays_of_a_reader_that_ends(temporary):
    with scratch() as folder:
        (folder / "blocks").mkdir()
    with pytest.raises(RuntimeError), scratch():
        raise RuntimeError
    assert folder.parent == temporary and not any(temporary.iterdir())


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
