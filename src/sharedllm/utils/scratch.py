"""Temporary folders of everything that is written under another name first. A writer that is killed leaves its folder; the next
writer there on that machine removes it.

A folder is provably ours and dead if it has our name with this machine's, and nobody holds the lock in it.
"""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .files import put

_PREFIX = "sharedllm-shard-"
_NAME = re.compile("[.]writing@[A-Za-z0-9.-]+@[a-z0-9_]+")
# Folders in which this process has looked for what killed writers left.
_swept: set[Path] = set()


@contextmanager
def scratch(within: Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end. A lock of the system in it says that its writer lives. The first one in a folder removes
    those of killed writers.

    Args:
        within: where a file is to be put from it by a rename; None for the system's folder of temporary files.
    """
    if within is not None and within.absolute() not in _swept:
        _swept.add(within.absolute())
        sweep(within)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(within), dir=within))
        lock = _lock(folder)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError):  # `sweep` of another process came in between
            shutil.rmtree(folder, ignore_errors=True)
            continue
        except (OSError, NotImplementedError):  # a disk without locks: `sweep` can't lock it either, and leaves it
            (folder / "lock").touch()
            break
        if (folder / "lock").exists():
            break
        lock.release()
    try:
        yield folder
    finally:
        _remove(folder, lock)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A new folder that takes a name at the end, in place of a folder of that name; if the work fails, that one stays. An empty
    folder is filled, as it may be a mounted disk, or where a shell is.

    Raises:
        OSError: it can't be written.
    """
    final = final.resolve()  # "." has no name
    fills = final.is_dir() and not any(final.iterdir())
    final.parent.mkdir(parents=True, exist_ok=True)
    with scratch(final if fills else final.parent) as above:
        made = above / "made"  # the lock beside it may have the name of `final`
        made.mkdir()
        yield made
        # safetensors makes files that only their owner can read.
        mode = made.stat().st_mode & 0o666
        for path in made.rglob("*"):
            if path.is_file():
                path.chmod(mode)
        if not fills:
            shutil.rmtree(final, ignore_errors=True)
            put(made, final)
            return
        # What names the files of folders comes after them.
        for path in sorted(made.iterdir(), key=Path.is_file):
            put(path, final / path.name)


def sweep(within: Path | None = None) -> None:
    """Remove the folders of writers that are dead: nobody holds their lock. Folders without a lock stay, unless they are empty.

    Args:
        within: see `scratch`. Only those of this machine's writers are removed, as not every shared disk shows others' locks.
    """
    above, prefix = Path(tempfile.gettempdir()) if within is None else within, _prefix(within)
    for name in _listed(above):
        if not name.startswith(prefix) or name == prefix:
            continue
        folder = above / name
        # Another user's, a faster writer's, or on a disk without locks.
        with suppress(OSError, Timeout, NotImplementedError):
            if folder.is_symlink() or not (folder / "lock").is_file():
                folder.rmdir()
                continue
            lock = _lock(folder)
            lock.acquire()
            _remove(folder, lock)


def is_scratch(name: str) -> bool:
    """Whether a folder of that name was made by `scratch` in another folder, on whichever machine."""
    return _NAME.fullmatch(name) is not None


def _listed(folder: Path) -> list[str]:
    """The names in a folder; none if it can't be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _prefix(within: Path | None) -> str:
    return _PREFIX if within is None else f".writing@{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname())}@"


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=0, thread_local=False, fallback_to_soft=False)


def _remove(folder: Path, held: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    held.release()
    # Windows deletes no file that is open, as the lock was.
    shutil.rmtree(folder, ignore_errors=True)
