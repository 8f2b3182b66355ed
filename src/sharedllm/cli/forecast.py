"""How far a reading is, and what the rest of it will take on disk, told while there is time to stop it."""

import shutil
from collections.abc import Callable
from pathlib import Path

from ..documents.collection import Collection
from ..store.manifest import Document, Manifest
from ..store.writer import Writer
from .common import note

# From so many tokens on, what was written tells what is to come.
TOKENS = 4096
# Less is not worth a word, as long as it is free.
WORTH = 1e9


class Forecast:
    """Says once what a memory will take.

    folder: the memory's. manifest: as it is when the reading begins.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self._told = folder, False
        self._before = {block.file for document in manifest.documents for block in document.blocks}
        self._half = ", or read it with --storage int8, in half the room" if manifest.storage == "model" else ""

    def tell(self, documents: tuple[Document, ...], left: Callable[[], float]) -> None:
        """
        Args:
            documents: the memory's now. left: gives about how many tokens are still to be read.
        """
        if self._told:
            return
        blocks = [b for document in documents for b in document.blocks if b.file not in self._before]
        tokens = sum(block.tokens for block in blocks)
        if tokens < TOKENS:
            return
        self._told = True
        written = sum((self.folder / "blocks" / f"{block.file}.memory").stat().st_size for block in blocks)
        coming, free = written / tokens * left(), shutil.disk_usage(self.folder).free
        if coming > free:
            more = f"about {_gb(coming)} are still to be written, and {_gb(free)} are free"
            note(f"{more}: stop it with Ctrl-C and free space{self._half}", style="yellow")
        elif coming >= WORTH:
            note(f"about {_gb(written + coming)} will be written; {_gb(free)} are free")


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.0f} MB"


class Shown:
    """Shows how far a collection is read, in bytes of its files, so that one bar is right for files of all kinds.

    advance: moves the bar by so many bytes, and sets its total.
    """

    def __init__(self, collection: Collection, writer: Writer, forecast: Forecast, advance: Callable[..., None]):
        self._collection, self._writer, self._forecast, self._move = collection, writer, forecast, advance
        self._length = 3.5  # characters of a token, as in what was read last
        self._name, self._nbytes, self._characters = "", 0, 0
        self._moved = self._read = self._before = 0
        self._known: set[str] = set()

    def begin(self, name: str, nbytes: int, characters: int, *, anew: bool) -> None:
        """A document, its file's size, and the length of its text; these are 0 for what can be read only once. anew: all of it is read,
        whatever the memory has of it."""
        self._name, self._nbytes, self._characters = name, nbytes, characters
        held = None if anew else self._document()
        self._known = {block.file for block in held.blocks} if held is not None else set()
        self._before = held.characters if held is not None else 0
        self._moved = self._read = 0
        self._show(self._before)

    def tokens(self, count: int) -> None:
        self._read += count
        characters, tokens = self._written()
        self._show(self._before + characters + max(0, self._read - tokens) * self._length)

    def done(self) -> None:
        self._written()
        self._show(self._characters)

    def _written(self) -> tuple[int, int]:
        """Characters and tokens of the document's blocks that were written since it was begun."""
        document = self._document()
        new = [block for block in document.blocks if block.file not in self._known] if document is not None else []
        characters, tokens = sum(block.characters for block in new), sum(block.tokens for block in new)
        self._length = characters / tokens if tokens else self._length
        return characters, tokens

    def _document(self) -> Document | None:
        """What the memory has of the document that is read."""
        documents = self._writer.present().documents
        if documents and documents[-1].name == self._name:
            return documents[-1]
        return next((document for document in documents if document.name == self._name), None)

    def _show(self, characters: float) -> None:
        """So many characters of the document are read."""
        characters = min(characters, self._characters)
        at = int(self._nbytes * characters / self._characters) if self._characters else 0
        step, self._moved = max(0, at - self._moved), max(at, self._moved)
        self._move(step, self._collection.nbytes or None)
        rest = self._characters - characters
        # Bytes of text are about as many characters.
        self._forecast.tell(
            self._writer.present().documents, lambda: (rest + self._collection.text_ahead) / self._length
        )
