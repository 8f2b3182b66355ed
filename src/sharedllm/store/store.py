"""MemoryStore: documents on disk to ask. This module only reads stores; `writer` changes them.

A damaged block is left out, and its tokens are named in `damaged`; `recover` helps if the manifest is lost.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..memory.context_memory import ContextMemory
from ..memory.interface import Damage
from ..memory.segment import Segment
from ..utils.errors import ITS_MODEL, UserError, as_path
from .blocks import BlockFile, OpenBlock, joined
from .manifest import Block, Document, Manifest, read_manifest


@dataclass(frozen=True)
class _Placed:
    """A block of a document with its slot in the store, and how many characters and lines of the document come before it
    (lines: −1 if unknown); `file` is None if it is damaged."""

    document: Document
    slot: int
    character: int
    line: int
    block: Block
    file: OpenBlock | None


class MemoryStore:
    """Documents read into a memory on disk. Reading never changes them, any number of processes may read at once, and an
    open store stays as it was while others write to it.

    Documents follow one another, each beginning at a chunk border; `model.select(store, …)` chooses from all of them.
    Only the data that is used is read from disk.
    """

    def __init__(self, folder: Path, manifest: Manifest, placed: list[_Placed], damaged: list[Damage]):
        self.folder, self.manifest, self.damaged = folder, manifest, damaged
        self._placed = placed

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        fingerprint: str | None = None,
        tokenizer: str | None = None,
        verify: bool = True,
        sound: Collection[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> "MemoryStore":
        """Open a store.

        Args:
            fingerprint: of the model that will use it; None skips the comparison. tokenizer: of its tokenizer.
            verify: read every byte and compare checksums; damaged blocks are left out and listed in `damaged`.
            sound: files of blocks that are not verified again: the `sound` of this store when it was opened before.
            progress: called with the number of tokens opened since the last call, and the total.

        Raises:
            UserError: no store, a damaged manifest, or a store of another model or tokenizer.
        """
        folder = as_path("folder", folder)
        while True:
            manifest = read_manifest(folder)
            for name, given in (("fingerprint", fingerprint), ("tokenizer", tokenizer)):
                found = getattr(manifest, name)
                if given is not None and found != given:
                    what = "by another model" if name == "fingerprint" else "with another tokenizer"
                    its = f" ({manifest.model})" if manifest.model else ""
                    raise UserError(
                        f"{folder} was made {what}{its}: {name} {found or '(none)'} in it, {given} here; {ITS_MODEL}, or "
                        "read the texts again."
                    )

            def opens(block: Block, manifest: Manifest = manifest) -> BlockFile:
                return BlockFile(folder, block, manifest, verify=verify and block.file not in sound)

            try:
                return cls.of(folder, manifest, opens, progress)
            except FileNotFoundError:
                # This is damage, unless a writer has removed the block since; then there is a newer manifest.
                if read_manifest(folder).generation == manifest.generation:
                    return cls.of(folder, manifest, opens, progress, missing=True)

    @classmethod
    def of(
        cls,
        folder: Path,
        manifest: Manifest,
        opens: Callable[[Block], OpenBlock],
        progress: Callable[[int, int], None] | None = None,
        *,
        missing: bool = False,
    ) -> "MemoryStore":
        """The store of a manifest's documents, wherever their blocks are.

        Args:
            folder: its name in messages. opens: opens a block. missing: a missing block is damage, not an error.

        Raises:
            FileNotFoundError: from `opens`, unless `missing`.
        """
        return cls(folder, manifest, *_open_blocks(folder, manifest, opens, progress, missing))

    @property
    def documents(self) -> tuple[Document, ...]:
        return self.manifest.documents

    @property
    def tokens(self) -> int:
        return sum(document.tokens for document in self.documents)

    @property
    def sound(self) -> frozenset[str]:
        """The files of the blocks that are not damaged."""
        return frozenset(p.block.file for p in self._placed if p.file is not None)

    @property
    def texts(self) -> int:
        """1: the documents together are one text."""
        return 1

    @property
    def complete(self) -> bool:
        """Whether every token was kept."""
        return self.manifest.complete

    @property
    def chunk_size(self) -> int:
        return self.manifest.chunk_size

    @property
    def pairs(self) -> int:
        return self.manifest.pairs

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def contents(self) -> list[dict[str, Any]]:
        """For each document: "name", "tokens", "characters", "finished", False if its reading was interrupted, its
        "title" if it has one, and "part_of", the document of which it is only a part, if `recover` made it."""
        return [
            {"name": d.name, "tokens": d.tokens, "characters": d.characters, "finished": d.finished}
            | ({"title": d.origin.title} if d.origin is not None and d.origin.title else {})
            | ({"part_of": d.part_of} if d.part_of else {})
            for d in self.documents
        ]

    @property
    def kept(self) -> Tensor:
        """(1,) tokens whose keys and values are kept."""
        return torch.tensor([sum(len(p.file.kept()["position"]) for p in self._placed if p.file is not None)])

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks on disk."""
        return sum(p.file.nbytes for p in self._placed if p.file is not None)

    @property
    def segments(self) -> list[Segment]:
        """The segments to select from.

        Raises:
            UserError: the store does not hold every token, or is empty.
        """
        return self._segments

    @cached_property
    def _segments(self) -> list[Segment]:
        found = self._whole()  # first, since an emptied store should not be called incomplete
        if not self.manifest.complete:
            raise UserError(
                f"{self.folder} does not hold every token: to select from it, read its texts with `sharedllm read --keep-all`."
            )
        # A document is a source of the first of its segments.
        left = {source["name"]: source for source in self._sources()}
        whole = [(slot, file, left.pop(p.document.name, None)) for p, slot, file in found]
        return [file.segment(slot, (source,) if source else ()) for slot, file, source in whole]

    def load(self) -> ContextMemory:
        """Load everything that is kept into RAM: for stores that keep a part of the tokens, or small ones."""
        whole = self._whole()
        last, _, _ = whole[-1]
        blocks = [(slot, file) for _, slot, file in whole]
        end, manifest = last.slot + last.block.tokens, self.manifest
        return joined(blocks, self._sources(), manifest.fingerprint, manifest.chunk_size, end)

    def _whole(self) -> list[tuple[_Placed, int, OpenBlock]]:
        """What is not damaged: blocks, the slots they begin at, and their files."""
        found = [(p, p.slot, p.file) for p in self._placed if p.file is not None]
        if not found:
            raise UserError(f"{self.folder} holds no readable text: read one with `sharedllm read … -o {self.folder}`.")
        return found

    def _sources(self) -> tuple[dict, ...]:
        """The store's documents: name, tokens and first slot of each, where its blocks begin, and its places (see
        `answering.citations.documents`).

        Positions count from a document's first token even if that is lost; a document that is entirely lost is left out.
        """
        sources: dict[str, dict] = {}
        for placed in self._placed:
            document = placed.document
            if document.name not in sources:
                sources[document.name] = {
                    "name": document.name,
                    "tokens": document.tokens,
                    "start": placed.slot,
                    "marks": [],
                }
                if document.origin is not None:
                    known = {"unit": document.origin.unit, "places": document.origin.places}
                    sources[document.name] |= known | {"lines": []}
            source = sources[document.name]
            if placed.file is not None:
                source["marks"].append((placed.slot - source["start"], placed.character))
                if "lines" in source and placed.line >= 0:
                    source["lines"].append((placed.slot - source["start"], placed.line))
        return tuple(source for source in sources.values() if source["marks"])


def _path(block: Block) -> str:
    """A block's file within the store."""
    return f"blocks/{block.file}.memory"


def _open_blocks(
    folder: Path,
    manifest: Manifest,
    opens: Callable[[Block], OpenBlock],
    progress: Callable[[int, int], None] | None,
    missing: bool,
) -> tuple[list[_Placed], list[Damage]]:
    """All blocks in order. missing: treat a missing block as damaged instead of raising an error."""
    placed, damaged, slot, form = [], [], 0, ()
    total = sum(document.tokens for document in manifest.documents)
    for document in manifest.documents:
        token = character = line = 0
        for block in document.blocks:
            file = None
            try:
                file = opens(block)
                form = form or file.form
                if file.form != form:
                    file = None
                    raise UserError(f"{_path(block)} has keys and values of other shapes than the blocks before it")
            except FileNotFoundError:
                if not missing:
                    raise
                damaged.append(Damage(document.name, token, token + block.tokens, f"{_path(block)} is missing"))
            except ValueError as error:
                damaged.append(Damage(document.name, token, token + block.tokens, str(error).replace(f"{folder}/", "")))
            placed.append(_Placed(document, slot, character, line, block, file))
            slot += -(-block.tokens // manifest.chunk_size) * manifest.chunk_size
            token, character = token + block.tokens, character + block.characters
            line = line + block.lines if min(line, block.lines) >= 0 else -1
            if progress is not None:
                progress(block.tokens, total)
    return placed, damaged
