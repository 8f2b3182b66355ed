"""What the rest of a reading will take on disk, told while there is time to stop it."""

import shutil
from pathlib import Path

from ..store.manifest import Document, Manifest
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

    def tell(self, documents: tuple[Document, ...], left: float) -> None:
        """
        Args:
            documents: the memory's now. left: about how many tokens are still to be read.
        """
        if self._told:
            return
        blocks = [b for document in documents for b in document.blocks if b.file not in self._before]
        tokens = sum(block.tokens for block in blocks)
        if tokens < TOKENS:
            return
        self._told = True
        written = sum((self.folder / "blocks" / f"{block.file}.memory").stat().st_size for block in blocks)
        coming, free = written / tokens * left, shutil.disk_usage(self.folder).free
        if coming > free:
            more = f"about {_gb(coming)} are still to be written, and {_gb(free)} are free"
            note(f"{more}: stop it with Ctrl-C and free space{self._half}", style="yellow")
        elif coming >= WORTH:
            note(f"about {_gb(written + coming)} will be written; {_gb(free)} are free")


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.0f} MB"
