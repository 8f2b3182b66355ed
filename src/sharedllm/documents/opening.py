"""Opens one document: its kind, its text, and the places in it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import UserError, refusal
from ..utils.text_files import PIECE, Empty, check_file, is_text, line_feeds, pieces_of
from .extract import Part
from .kinds import KINDS, kind_of
from .places import Origin

# Text files of up to so many bytes are held in memory; longer ones are read twice, once to check them.
HELD = 2**26


@dataclass(frozen=True)
class Opened:
    """A document that can be read.

    path    of its file; "-" is standard input
    kind    as messages name it
    nbytes  of the file; 0 for what can be read only once
    origin  its file's hash, its title and places
    read_as  what was guessed to read it (see `extract.Extract`); "" if nothing was
    characters  of its text; 0 for what can be read only once
    pieces  gives its whole text, in pieces that can be tokenised one by one
    """

    path: str
    kind: str
    nbytes: int
    origin: Origin
    pieces: Callable[[], Iterator[str]]
    read_as: str = ""
    characters: int = 0

    @property
    def marks(self) -> dict[str, Any]:
        """What a memory of this document alone adds to its source, so that citations name places."""
        return {"unit": self.origin.unit, "places": self.origin.places, "lines": [(0, 0)]}

    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces())


def open_document(name: str) -> Opened:
    """Open a file, a pipe, or - for standard input. A file is read to its end, so that what can't be read is refused
    before anything is done with its text.

    Raises:
        Empty: it holds nothing but spaces.
        UserError: it is missing, a folder, damaged, locked, without text, or of a kind that can't be read. Names
            the file and the fix.
    """
    try:
        check_file(name)
        path = Path(name)
        if name == "-" or not path.is_file():
            extract = KINDS["text"].read(path)
            return Opened(name, "text", 0, Origin(unit=extract.unit), lambda: _pieces(extract.parts))
        kind, nbytes = kind_of(path), path.stat().st_size
        if not nbytes:  # to some extractors that is a damaged file
            raise Empty(name)
        extract = kind.read(path)
        held = list(extract.parts) if nbytes <= HELD or isinstance(extract.parts, list) else None
        places, characters, blank = _places(held if held is not None else extract.parts)
        # Last, since a long file that is refused need not be hashed.
        sha256 = "" if blank else hash_of(path)
    except OSError as error:
        raise UserError(f"{name} can't be read: {refusal(error)}.") from None
    if blank:
        raise Empty(name)
    origin = Origin(sha256, extract.title, extract.unit, places)
    return Opened(
        name,
        kind.name,
        nbytes,
        origin,
        lambda: _pieces(held if held is not None else kind.read(path).parts),
        extract.read_as,
        characters,
    )


def hash_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _places(parts: Iterable[Part]) -> tuple[tuple[tuple[int, str], ...], int, bool]:
    """The places of parts, each with its first character; all their characters; and whether these are nothing but spaces."""
    places, characters, blank = [], 0, True
    for part in parts:
        if part.place and part.text and not (places and places[-1][1] == part.place):
            places.append((characters, _whole(part.place)))
        characters += len(part.text)
        blank = blank and not part.text.strip()
    return tuple(places), characters, blank


def _pieces(parts: Iterable[Part]) -> Iterator[str]:
    """The text of parts. Short ones are joined, long ones cut, so that few tokenise badly at their borders."""
    held = ""
    for part in parts:
        held += line_feeds(_whole(part.text))
        if len(held) >= PIECE:
            yield from pieces_of(held)
            held = ""
    if held:
        yield held


def _whole(text: str) -> str:
    """JSON can escape half of a surrogate pair; it becomes a question mark."""
    return text if is_text(text) else text.encode("utf-8", "replace").decode()
