"""Finding and reading text files: a file is read whole or refused by name. Imports nothing slow."""

import codecs
import contextlib
import glob
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError
from .files import there

# What a file in UTF-16 or UTF-32 begins with; UTF-32 first, because its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8",
}
# A carriage return without a line feed; the second also where the text ends.
_RETURN, _LAST_RETURN = re.compile(r"\r(?=[^\n])"), re.compile(r"\r(?!\n)")
# Long texts are read and tokenised in pieces of about this many characters, cut at line ends.
PIECE = 200_000


class Empty(UserError):
    """A text that holds nothing, or nothing but spaces."""

    def __init__(self, name: str):
        super().__init__(f"{name} is empty: there is nothing to read.")


def pieces_of(text: str) -> list[str]:
    """A text in pieces of about `PIECE` characters, cut after a line, else before a space, else anywhere, because
    tokenising a longer piece takes much memory and can't be interrupted."""
    pieces, size = [[]], 0
    for line in text.splitlines(keepends=True):
        if size > PIECE:
            pieces.append([])
            size = 0
        start = 0
        while len(line) - start > 4 * PIECE:
            cut = line.rfind(" ", start + 1, start + PIECE)
            cut = cut if cut > 0 else start + PIECE
            pieces[-1].append(line[start:cut])
            pieces.append([])
            start, size = cut, 0
        pieces[-1].append(line[start:])
        size += len(line) - start
    return ["".join(piece) for piece in pieces if piece]


def line_feeds(text: str) -> str:
    """A text in which a lone carriage return, the line end of old programs, is a line feed: characters keep their places."""
    return _LAST_RETURN.sub("\n", text)


def expand(names: Iterable[str]) -> list[str]:
    """File names with their globs expanded, in order; "-" stands for standard input.

    Raises:
        UserError: a glob matches no file.
    """
    files: list[str] = []
    for name in names:
        if name == "-" or not glob.has_magic(name) or Path(name).exists():
            files.append(name)
            continue
        found = sorted(f for f in glob.glob(name, recursive=True) if Path(f).is_file())  # noqa: PTH207 (absolute too)
        if not found:
            raise UserError(f"{name} matches no file: check the pattern.")
        files += found
    return files


def standard_input() -> BinaryIO:
    """
    Raises:
        UserError: it is closed.
    """
    if sys.stdin is None:
        raise UserError("standard input is closed: name a file, or pipe a text in.")
    return sys.stdin.buffer


def read_text(name: str) -> str:
    """The text of a file, or of standard input for "-"; raises as `text_pieces`."""
    return "".join(text_pieces(name))


def readable(name: str) -> str:
    """A printable file name. Bytes that are not UTF-8, which Python turns into lone surrogates, are shown as \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if not is_text(name) else name


def harmless(text: str) -> str:
    """A name or line for a terminal: what could change the terminal or the order of the letters is escaped, as \\x1b.

    A file's name may hold anything. Joiners (U+200C, U+200D) stay, because words and emoji are written with them.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in "\u200c\u200d" or unicodedata.category(character) in ("Zs", "Co")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def some(number: Any, word: str) -> str:
    """ "1 thread", "1,200 threads"; also of a number that is not known."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number}"
    return f"{shown} {word}{'' if number == 1 else 's'}"


def is_text(text: str) -> bool:
    """Whether a text has only whole characters, so that it can be written and tokenised."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, what: str = "the text") -> None:
    """Refuse a text that no tokenizer takes.

    Raises:
        UserError: a text can't be tokenised; see `is_text`.
    """
    if not is_text(text):
        raise UserError(f"{what} contains half of a character, or bytes that are not UTF-8: send whole characters.")


def check_named(name: str) -> None:
    """Refuse a blank name, as of a variable of the shell that isn't set: it would stand for the current folder.

    Raises:
        UserError: it is blank.
    """
    if not name.strip():
        raise UserError(f"a name of what to read is blank ({name!r}): name a file or a folder; the current one is `.`.")


def check_file(name: str) -> None:
    """Refuse a name that can't be read as text, without opening it: a pipe can be read only once.

    Raises:
        UserError: it is blank, missing or a folder, or no file can have that name.
    """
    check_named(name)
    path = Path(name)
    found = name == "-" or there(name)
    if name != "-" and path.is_dir():
        raise UserError(f"{name} is a folder: name one of its files, or read it into a memory with `sharedllm read`.")
    if not found:
        raise UserError(f"{name} does not exist: check the name.")


def marked(head: bytes) -> str | None:
    """The encoding that the first bytes of a text name by a byte order mark."""
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def text_pieces(name: str, encoding: str = "") -> Iterator[str]:
    """The text of a file, or of standard input for "-", in pieces that end with a line.

    Holds only a few pieces in memory, so a pipe may be of any length. A lone carriage return, the line end of old programs,
    becomes a line feed, so that characters keep their places.

    Args:
        encoding: default: what a byte order mark names, which is no part of the text, else UTF-8.

    Raises:
        UserError: the file is missing, a folder, empty or not of that encoding; names the file and the offset of bad bytes.
    """
    check_file(name)
    path, shown = Path(name), "standard input" if name == "-" else name
    held, offset, empty, decoder = "", 0, True, None
    with contextlib.nullcontext(standard_input()) if name == "-" else path.open("rb") as file:
        while True:
            raw = file.read(PIECE)
            if decoder is None:
                encoding = encoding or marked(raw) or "utf-8"
                decoder = codecs.getincrementaldecoder(encoding)()
                if encoding == "utf-8" and raw.startswith(codecs.BOM_UTF8):
                    raw, offset = raw.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
                    if not raw:
                        continue
            if encoding == "utf-8" and 10 * raw.count(0) > len(raw):
                raise UserError(
                    f"{shown} is not text in UTF-8: it is full of zero bytes, as UTF-16 without a mark is; convert it."
                )
            try:
                held += decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                place = offset + error.start - len(decoder.getstate()[0])
                bad, meant = error.object[error.start], encoding.upper() if encoding.startswith("utf") else encoding
                raise UserError(f"{shown} is not {meant}: byte {place} is 0x{bad:02x}; convert it.") from None
            offset += len(raw)
            held = (_RETURN if raw else _LAST_RETURN).sub("\n", held)
            empty = empty and not held.strip()
            cut = held.rfind("\n") + 1 if raw else len(held)
            if not cut and len(held) > 4 * PIECE:
                cut = held.rfind(" ") + 1 or len(held)
            if cut:
                yield held[:cut]
                held = held[cut:]
            if not raw:
                break
    if empty:
        raise Empty(shown)
