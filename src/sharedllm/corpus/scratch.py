"""A temporary folder for a shard that is being read. A reader that is killed leaves it; the next reader removes it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "sharedllm-shard-"


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, removed at the end. A lock of the system in it says that its reader lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(folder)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError):  # `sweep` of another reader came in between
            continue
        if (folder / "lock").exists():
            break
        lock.release()
    try:
        yield folder
    finally:
        _remove(folder, lock)


def sweep() -> None:
    """Remove the folders of readers that are dead: nobody holds their lock. Folders without a lock stay, unless they are empty."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):  # another user's, or another reader is faster
            if folder.is_symlink() or not (folder / "lock").is_file():
                folder.rmdir()
                continue
            lock = _lock(folder)
            lock.acquire()
            _remove(folder, lock)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=0, thread_local=False, fallback_to_soft=False)


def _remove(folder: Path, held: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    held.release()
    # Windows deletes no file that is open, as the lock was.
    shutil.rmtree(folder, ignore_errors=True)
