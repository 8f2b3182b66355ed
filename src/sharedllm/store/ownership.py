"""Whose folder a store is written to: the lock of its one writer, and what may be deleted in it.

Nothing is deleted that is not provably a store's own: files of other names stay, and blocks that no manifest names are
never taken for leftovers.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..utils.errors import UserError, recovery
from ..utils.files import put, synchronise, there
from .manifest import NAME, Manifest, is_block, read_manifest
from .meanings import FOLDER as MEANINGS
from .meanings import own_file


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Make and lock a store's folder for one process; the lock is released whatever happens to that process. A store that was
    begun here is removed again if it fails before it has documents.

    Raises:
        UserError: the folder may hold someone else's files, or another process is writing to it.
    """
    check_ours(folder)
    new, begun = not folder.exists(), not (folder / NAME).exists()
    folder.mkdir(exist_ok=True)
    # A lock of the system, never a mere file, which a killed process would leave locked.
    lock = FileLock(folder / "lock", timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        held = lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is being written by another process: wait for it to end.") from None
    with held:
        try:
            yield
        except BaseException:
            if begun:
                _undo(folder, new)
            raise


def check_ours(folder: Path) -> None:
    """Refuse a folder that may hold someone else's files, before anything in it is deleted or written.

    Raises:
        UserError: it is not a store, or has blocks that no manifest names.
    """
    if there(folder) and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a memory folder: name another one.")
    if not folder.parent.is_dir():
        raise UserError(f"the folder {folder.parent} does not exist: create it, or save the memory elsewhere.")
    blocks = folder / "blocks"
    if blocks.is_symlink() or (blocks.exists() and not blocks.is_dir()):
        raise UserError(f"{blocks} is a link or a file: a memory needs its own folder for blocks; name another one.")
    if not folder.is_dir() or (folder / NAME).exists():
        return
    inside = list(blocks.iterdir()) if blocks.is_dir() else []
    if any(is_block(path.name) for path in inside):
        raise UserError(
            f"{folder} has blocks of a memory but no {NAME} that names them: {recovery(folder)} makes a memory from them; or "
            "name another one."
        )
    if inside or any(p.name not in ("lock", "blocks", f".{NAME}.part") for p in folder.iterdir()):
        raise UserError(f"{folder} is a folder with other content: name a memory, such as notes.memory.")


def _undo(folder: Path, new: bool) -> None:
    """Delete a store that was begun here and has no documents yet; other files in its folder stay."""
    try:
        if (folder / NAME).exists() and read_manifest(folder).documents:
            return
    except UserError:
        return
    blocks = folder / "blocks"
    for path in [*blocks.glob("*"), folder / NAME, folder / "lock"]:
        if path.parent == folder or is_block(path.name):
            with suppress(PermissionError):  # Windows deletes no file that is open, as the lock is
                _remove(path)
    for path in [blocks, *([folder] if new else [])]:
        with suppress(OSError):  # it has other content
            path.rmdir()


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete blocks that the manifest does not name, and what is kept beside them: removed documents, or remains of a killed
    writer.

    Nothing is deleted if blocks that it names are missing: the manifest may belong to another memory.
    """
    named = {f"{b.file}.memory" for d in manifest.documents for b in d.blocks}
    held = {path.name: path for path in (folder / "blocks").iterdir() if is_block(path.name)}
    if named - held.keys():
        return
    for name in held.keys() - named:
        with suppress(PermissionError):  # on Windows another process may read it; the next writer deletes it
            _remove(held[name])
    beside = folder / MEANINGS
    for path in beside.glob("*.memory") if not beside.is_symlink() else ():
        if is_block(path.name) and path.name not in named:
            with suppress(OSError):  # never needed, so never in a writer's way
                path.unlink()


def _remove(path: Path) -> None:
    """Delete a block, or the folder in which it was being written."""
    if path.suffix != ".memory" and path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Delete a store: its manifest first, as what is left then is no memory, its blocks, and its folder, if nothing else is in it.

    Raises:
        UserError: it is not a store, or another process is writing to it. OSError: something of it can't be deleted.
    """
    read_manifest(folder)  # before a folder or a lock is made
    with owning(folder):
        manifest = read_manifest(folder)
        sweep(folder, manifest)
        (folder / NAME).unlink()
        places = [place for place in (folder / "blocks", folder / MEANINGS) if not place.is_symlink()]
        for block in (block for document in manifest.documents for block in document.blocks):
            for place in places:
                with suppress(PermissionError):  # on Windows another process may read it
                    (place / f"{block.file}.memory").unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows deletes no file that is open
            (folder / "lock").unlink()
        for path in (*places, folder):
            with suppress(OSError):  # it has other content
                path.rmdir()


def copy_block(source: Path, folder: Path) -> None:
    """Put a block of another store into this one, with what questions had read deeper of it."""
    _copy(source, folder / "blocks")
    beside = source.parent.parent / MEANINGS / source.name
    if own_file(beside) and not (folder / MEANINGS).is_symlink():
        with suppress(OSError):
            (folder / MEANINGS).mkdir(exist_ok=True)
            _copy(beside, folder / MEANINGS)


def _copy(source: Path, folder: Path) -> None:
    """As a second name of the file where the file system has that."""
    target = folder / source.name
    try:
        os.link(source, target)
        synchronise(target.parent)
    except OSError:
        temporary = target.with_name(f"{target.name}.tmp{secrets.token_hex(4)}")
        try:
            shutil.copyfile(source, temporary)
            put(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
