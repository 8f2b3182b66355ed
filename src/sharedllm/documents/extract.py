"""What an extractor is, and what it returns."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.errors import UserError, clipped

EXTRA = 'pip install "sharedllm[documents]"'
# A place of a part that is made of many small things, such as messages, covers at least this many characters, so that
# the list of places stays much shorter than the text.
GROUP = 400


@dataclass(frozen=True)
class Part:
    """A stretch of a document's text. Nothing is put between parts: one that ends with a word ends with its space or line end, too.

    place: where it begins, such as "page 12"; "" continues the place of the part before it.
    """

    text: str
    place: str = ""


@dataclass(frozen=True)
class Extract:
    """The text of a file.

    parts  in order; may be read lazily, once
    title  the document's own, such as an HTML title; "" if it has none
    unit   what a line of the text is in the file, such as "line" or "row", counted from 1; "" if lines mean nothing
    read_as  what was guessed to read it: an encoding such as "windows-1252", or "JSON lines"; "" if nothing was
    """

    parts: Iterable[Part]
    title: str = ""
    unit: str = ""
    read_as: str = ""


class BadKind(UserError):
    """The extractor of a kind fails, or gives what is no text."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    name       as messages write it: "PDF"
    suffixes   of its files, in lower case, with the dot
    extract    path → its text; raises UserError, which names the file and the fix, if it can't be read
    recognise  path, first bytes → whether it is a file of this kind, whatever its suffix; None if only suffixes tell
    """

    name: str
    suffixes: tuple[str, ...]
    extract: Callable[[Path], Extract]
    recognise: Callable[[Path, bytes], bool] | None = None

    def read(self, path: Path) -> Extract:
        """The text of a file.

        Raises:
            UserError: it can't be read. BadKind: the extractor fails, or gives something else; parts that are read lazily raise it
                when they are.
            OSError: the file can't be read.
        """
        with self._named(path):
            found = self.extract(path)
            self._check(path, found, Extract)
            # What is held can be checked now, and read again.
            parts = self._parts(path, found.parts)
            return replace(found, parts=list(parts) if isinstance(found.parts, list) else parts)

    def _parts(self, path: Path, parts: Iterable[Part]) -> Iterator[Part]:
        with self._named(path):
            for part in parts:
                self._check(path, part, Part)
                self._check(path, part.text, str)
                yield part

    def _check(self, path: Path, value: Any, kind: type) -> None:
        if not isinstance(value, kind):
            said = f"{type(value).__name__} where {kind.__name__} is needed"
            raise BadKind(f"{path} can't be read: the document kind {self.name!r} gives {said}: mend its extractor.")

    @contextmanager
    def _named(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (UserError, OSError, GeneratorExit):
            raise
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise BadKind(f"{path} can't be read: the document kind {self.name!r} failed with {said}.") from error


def library(name: str, path: Path) -> ModuleType:
    """Import a library of the extra `documents`.

    Raises:
        UserError: it is not installed; names the file that needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{path} needs the library {name.partition('.')[0]}: {EXTRA}") from None


def grouped(name: str, texts: Iterable[tuple[int, str]], before: str = "") -> Iterator[Part]:
    """Numbered texts as parts of at least `GROUP` characters, each with its place: "message 3" or "messages 3–7".

    Args:
        name: of one text, in the singular. texts: number and text; blank texts are left out. before: put before each place.
    """
    held, first, last = "", 0, 0
    for number, text in texts:
        if not text.strip():
            continue
        first = first if held else number
        held, last = held + text, number
        if len(held) >= GROUP:
            yield Part(held, before + numbered(name, first, last))
            held = ""
    if held:
        yield Part(held, before + numbered(name, first, last))


def numbered(name: str, first: int, last: int) -> str:
    """ "page 3" or "pages 3–7"."""
    return f"{name} {first}" if first == last else f"{name}s {first}–{last}"


def section(heading: str) -> str:
    """The place under a heading."""
    line = " ".join(heading.split())
    return f'section "{clipped(line, 60)}"' if line else ""
