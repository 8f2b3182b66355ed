"""Files and folders that are there whole or not at all, also behind a power cut."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside `path`, then rename it; folders above are made.

    Raises:
        OSError: it can't be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, final: Path) -> None:
    """Give a file or a folder its name, so that behind a power cut it is whole or not there."""
    for path in [temporary, *temporary.rglob("*")]:
        synchronise(path)
    temporary.replace(final)
    synchronise(final.parent)


def synchronise(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk. On Windows folders can't be, and need not."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
