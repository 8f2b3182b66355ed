"""The documents of a command: found files that are opened one by one, with what was left out and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..utils.errors import UserError
from ..utils.text_files import Empty, readable
from .folder import Found
from .kinds import text_suffixes
from .opening import HELD, Opened, hash_of, open_document


@dataclass
class Collection:
    """`begin` fills `unchanged`; opening the files, once, fills `emptied`, `unreadable` and `guessed`.

    found       the files
    known       name of a document that is held already → hash of its file when it was read
    following   names of documents that go where their file is empty now, instead of an empty file being unreadable
    unchanged   names of documents that are held as their files are now
    emptied     names of the documents that go
    unreadable  path and reason of what was left out
    guessed     name of a document → what was guessed to read it (see `extract.Extract`)
    """

    found: Found
    known: Mapping[str, str] = field(default_factory=dict)
    following: frozenset[str] = frozenset()
    unchanged: list[str] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    guessed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unreadable += self.found.unreadable
        self._held: dict[str, Opened] = {}
        self._first: Opened | None = None
        self._coming: Iterator[Opened] = iter(())
        self._to_read: dict[str, int] = {}  # with their sizes
        self._ahead: dict[str, int] = {}  # what of these is not opened yet
        self._nbytes = 0

    @property
    def names(self) -> list[str]:
        """The names of the documents."""
        return [readable(file) for file in self.found.files]

    @property
    def label(self) -> str:
        """What is read, for messages; known once it has begun."""
        return next(iter(self._to_read)) if len(self._to_read) == 1 else f"{len(self._to_read):,} files"

    @property
    def nbytes(self) -> int:
        """The size of the files to read, without those that turned out so far to be empty or unreadable."""
        return self._nbytes

    @property
    def text_ahead(self) -> int:
        """The size of the text files that are still to be opened. That of other kinds says nothing about their text: most of it may be
        pictures."""
        plain = text_suffixes()
        return sum(size for file, size in self._ahead.items() if Path(file).suffix.lower() in plain)

    def check(self) -> None:
        """Refuse a file that was named and can't be read, before anything is done with the others. An empty one is left out.

        Raises:
            UserError: see `open_document`.
        """
        room = HELD
        for file in self.found.files:
            if file in self.found.named and file != "-" and Path(file).is_file() and not self._same(file):
                try:
                    opened = open_document(file)
                except Empty:
                    continue
                room -= opened.nbytes
                if room > 0:
                    self._held[file] = opened

    def begin(self) -> bool:
        """Tell the unchanged files, and open the first document to read, so that nothing is done if there is none.

        Returns:
            Whether there is one; if not, all documents are unchanged or go.

        Raises:
            UserError: no file can be read.
        """
        for file in self.found.files:
            if self._same(file):
                self.unchanged.append(readable(file))
            else:
                self._to_read[file] = _size(file)
        self._nbytes, self._ahead = sum(self._to_read.values()), dict(self._to_read)
        self._coming = self._opened()
        self._first = next(self._coming, None)
        if self._first is None and not self.unchanged and not self.emptied:
            reason = self.unreadable[0][1]
            more = f" {len(self.unreadable) - 1} more can't be read either." if len(self.unreadable) > 1 else ""
            where = ", ".join(filter(None, self.found.folders))
            raise UserError((f"{where} holds no file that can be read: " if where else "") + reason + more)
        return self._first is not None

    def rest(self) -> Iterator[Opened]:
        """The documents to read, from the first one that `begin` opened."""
        if self._first is not None:
            yield self._first
            self._first = None
            yield from self._coming

    def _opened(self) -> Iterator[Opened]:
        for file in self._to_read:
            del self._ahead[file]
            try:
                opened = self._held.pop(file, None) or open_document(file)
            except UserError as error:
                empty = isinstance(error, Empty)
                if file in self.found.named and not empty:
                    raise
                if empty and readable(file) in self.following:
                    self.emptied.append(readable(file))
                else:
                    self.unreadable.append((readable(file), str(error)))
                self._nbytes -= self._to_read[file]
                continue
            if opened.read_as:
                self.guessed[readable(file)] = opened.read_as
            yield opened

    def _same(self, file: str) -> bool:
        known = self.known.get(readable(file))
        try:
            return bool(known) and Path(file).is_file() and hash_of(Path(file)) == known
        except OSError:
            return False


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size if Path(file).is_file() else 0
    except OSError:
        return 0
