"""Temporary folders: for a shard that is being read, and in a corpus for an object that is being put. A reader that is killed leaves
them; the next one removes them."""

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "sharedllm-shard-"
# How often a lock is tried.
_ATTEMPTS = 20


@contextmanager
def scratch(within: Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end. A lock of the system in it says that its reader lives.

    Args:
        within: a corpus; None for the system's folder of temporary files.
    """
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_prefix(within), dir=within))
        lock = _lock(folder)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError, NotImplementedError):
            # `sweep` of another reader came in between, or see below.
            shutil.rmtree(folder, ignore_errors=True)
            continue
        if (folder / "lock").exists():
            break
        lock.release()
    else:  # a shared disk without locks: there `sweep` can't lock it either, and leaves it
        folder = Path(tempfile.mkdtemp(prefix=_prefix(within), dir=within))
        lock = _lock(folder)
        (folder / "lock").touch()
    try:
        yield folder
    finally:
        _remove(folder, lock)


def sweep(within: Path | None = None) -> None:
    """Remove the folders of readers that are dead: nobody holds their lock. Folders without a lock stay, unless they are empty.

    Args:
        within: see `scratch`. In a corpus only those of this machine's readers, as not every shared disk shows others' locks.
    """
    above = Path(tempfile.gettempdir()) if within is None else within
    for folder in above.glob(f"{_prefix(within)}*"):
        # Another user's, a faster reader's, or on a disk without locks.
        with suppress(OSError, Timeout, NotImplementedError):
            if folder.is_symlink() or not (folder / "lock").is_file():
                folder.rmdir()
                continue
            lock = _lock(folder)
            lock.acquire()
            _remove(folder, lock)


def _prefix(within: Path | None) -> str:
    return _PREFIX if within is None else f".writing@{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname())}@"


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=0, thread_local=False, fallback_to_soft=False)


def _remove(folder: Path, held: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    held.release()
    # Windows deletes no file that is open, as the lock was.
    shutil.rmtree(folder, ignore_errors=True)
