"""The files of folders and globs: in a stable order, without hidden files, what .gitignore names, and what is installed."""

import errno
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from ..utils.errors import UserError, refusal
from ..utils.files import slashes
from ..utils.text_files import check_file, check_named, expand

# Office writes such a file, with the user's name in it, beside a document that is open.
OWNER = "~$"
LEFT_OUT = {"node_modules", "__pycache__", "site-packages"}


class NoFile(UserError):
    """What was named holds no file to read."""


@dataclass
class Found:
    """What was found.

    files       paths, in order, each once
    named       those of them that were named one by one, and so must be readable; empty ones are left out
    folders     the folders that were searched; "" is the current one
    unreadable  path and reason of folders and files that could not even be listed
    unused      patterns of what to leave out that left nothing out
    """

    files: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


class _Excluded:
    """What patterns as in .gitignore leave out. `names`: what they did leave out, so far."""

    def __init__(self, patterns: Sequence[str]):
        """
        Raises:
            UserError: one of them is no pattern.
        """
        self._each: dict[str, GitIgnoreSpec] = {}
        for pattern in patterns:
            try:
                self._each[pattern] = GitIgnoreSpec.from_lines([pattern])
            except ValueError as error:
                raise UserError(f"exclude={pattern!r} is no pattern as in .gitignore: {error}") from None
        self._all = GitIgnoreSpec.from_lines(patterns)
        self.names: list[str] = []

    def __call__(self, name: str) -> bool:
        if not self._all.match_file(name):
            return False
        self.names.append(name)
        return True

    def unused(self) -> list[str]:
        """The patterns that fit nothing of it. Those with ! leave nothing out by themselves."""
        return [
            pattern
            for pattern, spec in self._each.items()
            if not pattern.startswith("!") and not any(map(spec.match_file, self.names))
        ]


def find(names: Sequence[str], exclude: Sequence[str] = ()) -> Found:
    """The files that names stand for.

    Args:
        names: files, folders, globs, or - for standard input. exclude: patterns as in .gitignore for what is left out of
            folders and globs.

    Raises:
        UserError: a name is blank, missing or a memory. NoFile: no file was found. Files are not opened.
    """
    found, excluded = Found(), _Excluded(exclude)
    for name in names:
        check_named(name)
        if name != "-" and Path(name).is_dir():
            _check_open(Path(name))
            _check_no_memory(Path(name))
            _search(name, excluded, found)
        elif name == "-" or not glob.has_magic(name) or Path(name).exists():
            check_file(name)
            # One file under two spellings would be read twice.
            name = name if name == "-" else slashes(os.path.normpath(name))
            found.files.append(name)
            found.named.add(name)
        else:
            files = map(slashes, expand([name]))
            found.files += [
                file for file in files if not excluded(file.lstrip("/")) and not Path(file).name.startswith(OWNER)
            ]
    found.files = list(dict.fromkeys(found.files))
    if not found.files:
        shown = ", ".join(names)
        kept_out = ", what is excluded" if exclude else ""
        raise NoFile(f"{shown} holds no file to read: hidden files{kept_out} and what .gitignore names are left out.")
    found.unused = excluded.unused()
    return found


def inside(name: str, folder: str) -> bool:
    """Whether a file lies in a folder or below it; "" is the current folder."""
    if not folder:
        return not Path(name).is_absolute() and not name.startswith("..")
    return name.startswith(folder.rstrip("/") + "/")


def _search(folder: str, excluded: _Excluded, found: Found) -> None:
    top = slashes(os.path.normpath(folder))
    found.folders.append("" if top == "." else top)
    rules: dict[str, GitIgnoreSpec] = {}

    def failed(error: OSError) -> None:
        found.unreadable.append((slashes(str(error.filename)), error.strerror or str(error)))

    for at, folders, files in os.walk(top, onerror=failed):
        if not os.access(at, os.X_OK):  # what is in it may be listed, but not be looked at
            failed(_denied(at))
            folders.clear()
            continue
        below = os.path.relpath(at, top)
        below = "" if below == "." else Path(below).as_posix() + "/"
        if ".gitignore" in files and Path(at, ".gitignore").is_file():
            try:
                lines = Path(at, ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError as error:
                failed(error)
                lines = []
            # As git does, what is no pattern is passed over.
            rules[below] = GitIgnoreSpec.from_lines(line for line in lines if line.strip(" !"))

        def kept(name: str, end: str = "", below: str = below) -> bool:
            return (
                not name.startswith(".")
                and not excluded(below + name + end)
                and not _ignored(rules, below + name + end)
            )

        folders[:] = [f for f in sorted(folders) if f not in LEFT_OUT and kept(f, "/") and not _foreign(Path(at, f))]
        for name in sorted(files):
            path = Path(at, name)
            if not kept(name) or name.startswith(OWNER):
                continue
            if path.is_file():
                found.files.append(slashes(str(path)))
            elif path.is_symlink():
                found.unreadable.append((slashes(str(path)), "it is a link to nothing"))
            else:
                found.unreadable.append((slashes(str(path)), "it is a pipe or a device, not a file"))


def _ignored(rules: dict[str, GitIgnoreSpec], path: str) -> bool:
    """Whether the .gitignore nearest to a path that says anything about it leaves it out."""
    for base in sorted(rules, key=len, reverse=True):
        if path.startswith(base):
            said = rules[base].check_file(path[len(base) :]).include
            if said is not None:
                return said
    return False


def _foreign(folder: Path) -> bool:
    """Whether a folder is a memory, a corpus or a virtual environment."""
    return os.access(folder, os.X_OK) and (_is_memory(folder) or _is_corpus(folder) or (folder / "pyvenv.cfg").exists())


def _is_memory(folder: Path) -> bool:
    return folder.suffix == ".memory" or ((folder / "manifest.json").exists() and (folder / "blocks").is_dir())


def _is_corpus(folder: Path) -> bool:
    return (folder / "corpus.json").exists() and (folder / "parts").is_dir()


def _check_open(folder: Path) -> None:
    """
    Raises:
        UserError: a folder may not be listed, or what is in it not be looked at.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder} can't be read: {refusal(_denied(folder))}.")


def _denied(folder: str | Path) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _check_no_memory(folder: Path) -> None:
    """
    Raises:
        UserError: a folder is a memory or a corpus.
    """
    if _is_memory(folder):
        raise UserError(
            f"{folder} is a memory, not a document: ask it, or join memories with `sharedllm memory merge`."
        )
    if _is_corpus(folder):
        raise UserError(f"{folder} is a corpus, not a document: ask it with `sharedllm ask`, or read its sources.")
