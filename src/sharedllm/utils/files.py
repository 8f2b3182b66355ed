"""Atomic writes: a file or folder is there whole or not at all, even after a power cut."""

import errno
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from .errors import UserError, clipped, is_full, no_room, refusal

WINDOWS = sys.platform == "win32"
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
# How often a file is tried to be replaced, 0.02 s apart.
_ATTEMPTS = 50


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside `path`, then rename it. Creates missing parent folders.

    Raises:
        OSError: the file can't be written; `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        put(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def there(path: str | Path) -> bool:
    """Whether there is a file or folder of a name.

    Raises:
        UserError: none can have it, as it is too long; or it can't be looked at.
    """
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{clipped(str(path))} can't be opened: {refusal(error)}.") from None
    return True


def refused(error: OSError) -> str:
    """The name of the file that an error is about: of a copy on a full disk the new one's; if a folder above it may not be
    entered, that folder's."""
    if is_full(error) and error.filename2:
        return error.filename2
    above = reversed(Path(error.filename).parents) if isinstance(error, PermissionError) else ()
    return next((str(path) for path in above if path.is_dir() and not os.access(path, os.X_OK)), error.filename)


def check_writable(folder: Path, option: str, file: Path | None = None) -> None:
    """Refuse a folder that can't be written to, before work whose result is for it. Nothing is left behind.

    Args:
        option, file: that name it, for the message; without a file it was named itself.

    Raises:
        UserError: it, or the nearest folder above it that exists, is no folder or can't be written to, or its disk is full; or the
            file is a folder.
    """
    named = clipped(str(file or folder))
    try:
        if file is not None and file.is_dir():
            raise UserError(f"{option} {named} is a folder: name a file in it.")
        if folder.is_file():
            raise UserError(f"{option} {clipped(str(folder))} is a file, not a folder: name another one.")
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
        with tempfile.TemporaryFile(dir=above, buffering=0) as probe:
            probe.write(b"a")  # on a full disk an empty file can be made
    except OSError as error:
        if said := no_room(f"{option} {named}", error):
            raise UserError(said) from None
        fix = "use a shorter name" if error.errno == errno.ENAMETOOLONG else "name another folder"
        raise UserError(f"{option} {named} can't be written: {error.strerror or error}; {fix}.") from None


def put(temporary: Path, final: Path) -> None:
    """Rename a file or folder to its final name, so that after a power cut it is whole or not there."""
    for path in [temporary, *temporary.rglob("*")]:
        synchronise(path)
    for attempt in range(_ATTEMPTS):
        try:
            temporary.replace(final)
            break
        except PermissionError:
            # On Windows a file that another process reads just now can't be replaced.
            if not WINDOWS or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.02)
    synchronise(final.parent)


def is_uri(name: str | Path) -> bool:
    """Whether a name is a URI, as s3://bucket/notes, and not a path. A `Path` never is: it joins the slashes."""
    return isinstance(name, str) and _URI.match(name) is not None


def slashes(name: str) -> str:
    """A path with forward slashes, as it is stored in memories; elsewhere than on Windows other characters are no slashes."""
    return name.replace("\\", "/") if WINDOWS else name


def synchronise(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk. Windows neither allows nor needs this for folders."""
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
