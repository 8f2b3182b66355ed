"""Changing a store: read documents into it, extend and remove them, merge stores. `ownership` sees to it that
there is one writer at a time; whatever happens to it, the store stays whole."""

import hashlib
import itertools
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..context.policies.base import without_query
from ..documents.places import Origin
from ..memory.file import Storage, save_memory
from ..scoring.text_index import embedded_sentences
from ..utils.errors import ITS_MODEL, UserError, as_path
from ..utils.text import tokenized
from .alike import check_alike
from .blocks import BlockFile
from .manifest import NAME, Block, Document, Manifest, read_manifest, write_manifest
from .ownership import copy_block, owning, sweep

BLOCK_TOKENS = 8192


@contextmanager
def writing(folder: str | Path) -> Iterator["Writer"]:
    """Lock a store for changes by one process. After an error no block stays that its manifest does not name, because a
    full disk needs the space.

    Raises:
        UserError: the folder is not a store, or another process is writing to it.
    """
    folder = as_path("folder", folder)
    with owning(folder):
        writer = Writer(folder)
        try:
            try:
                yield writer
            finally:
                writer.settle()
        except BaseException:
            with suppress(UserError, OSError):
                sweep(folder, read_manifest(folder))
            raise


class Changed(UserError):
    """A text does not begin with what was read earlier under its name."""


class Writer:
    """Changes a store; made by `writing`. A killed writer leaves the last committed state.

    Reading commits after every block's worth of new tokens, and at the end of `writing`. A commit after each of many
    small documents would rewrite the growing manifest every time.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder) if (folder / NAME).exists() else None
        self._held, self._unsaved = False, 0
        # The store after which this one takes, for messages.
        self._like = folder
        (folder / "blocks").mkdir(exist_ok=True)
        self._sweep()

    def begin(
        self, model: SharedLLMForCausalLM, tokenizer: str, *, keep_all: bool = True, storage: Storage = "model"
    ) -> None:
        """Begin a store, replacing an existing one, which stays until `commit`.

        Args:
            tokenizer: identifies the tokenizer of the documents to read.
            keep_all: keep every token, so that questions can select. storage: see `memory.file.save_memory`.

        Raises:
            UserError: the model's encoding can't keep everything.
        """
        config = model.config
        if keep_all and config.encoding != "chunk":
            raise UserError(f"keep_all=True needs encoding='chunk', the model has {config.encoding!r}.")
        self._held = self.manifest is not None
        generation = self.manifest.generation if self.manifest is not None else 0
        self.manifest = Manifest(
            model.fingerprint(), tokenizer, config.chunk_size, len(config.injection_map), keep_all, storage,
            generation=generation, model=Path(model.name_or_path or "").name,
        )  # fmt: skip
        self._name()

    def read(
        self,
        model: SharedLLMForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        pieces: Iterable[str],
        *,
        origin: Origin | None = None,
        anew: bool = False,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Read a document block by block, after the others; an existing one of that name continues where it ended.

        Args:
            pieces: its whole text in order; never held in memory as a whole.
            origin: the file it is read from, with all its places. Without it, a document that continues keeps its own.
            anew: read all of it; an existing document of that name stays until the new one is whole, and is then replaced.
            progress: called with the number of tokens read since the last call.

        Returns:
            The number of newly read tokens.

        Raises:
            Changed: the text does not begin with the text read earlier under this name. UserError: the store is another
                model's, or the text is empty.
        """
        manifest = self.present()
        if not name.strip():
            raise UserError(f"name={name!r} is no name of a document: give one with letters.")
        if manifest.fingerprint != model.fingerprint():
            raise UserError(f"{self.folder} was made by another model: {ITS_MODEL}, or begin the memory anew.")
        after = max((d.place for d in manifest.documents), default=-1) + 1
        there = next((d for d in manifest.documents if d.name == name), None)
        place = after if there is None else there.place
        nothing = Document(name, (), hashlib.sha256().hexdigest(), finished=False)
        old = nothing if there is None or anew else there
        pieces = iter(pieces)
        digest, text = self._skip(old, pieces)
        if origin is None and old.origin is not None:
            origin = old.origin.continued(old.characters) if text else old.origin
        blocks, size = list(old.blocks), self._block_tokens(model)
        ids, characters, known, lines = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 0, 0
        context = self._last_ids(blocks)
        if text and blocks and (blocks[-1].tokens < size or old.finished):
            # The last block is read again together with the new text, even a full one, as the document does not end there any
            # more; all its characters are attributed to its first token.
            ids, context = context, self._last_ids(blocks[:-1])
            known, lines = blocks[-1].characters, blocks[-1].lines
            characters = torch.zeros(len(ids), dtype=torch.long)
            characters[0] = known
            blocks.pop()
        written = ""
        for piece, more, lengths, last in tokenized(tokenizer, itertools.chain([text] if text else [], pieces)):
            ids, characters, written = torch.cat([ids, more]), torch.cat([characters, lengths]), written + piece
            while len(ids) > size or (len(ids) and last):
                start, before = sum(block.tokens for block in blocks), sum(block.characters for block in blocks)
                source = {"name": name, "tokens": min(len(ids), size), "from_token": start, "place": place}
                if len(ids) <= size:
                    source["ends"] = True
                if origin is not None:
                    source["origin"] = asdict(origin.within(before, before + int(characters[:size].sum())))
                reads = (model, tokenizer, context, ids[:size], characters[:size])
                block = self._block(*reads, source, batch_tokens, progress)
                new = block.characters - known
                digest.update(written[:new].encode())
                blocks.append(replace(block, lines=lines + written[:new].count("\n") if lines >= 0 else -1))
                written, known, lines = written[new:], 0, 0
                context, ids, characters = ids[:size], ids[size:], characters[size:]
                if tokenizer.is_fast and len(characters) and characters[0] and not anew:
                    # Reading can continue here: not inside a character whose bytes are separate tokens, nor where a
                    # slow tokenizer, which does not report where tokens end, may be some characters off.
                    self._put(Document(name, tuple(blocks), digest.hexdigest(), False, origin, place))
        if not blocks:
            raise UserError(f"{name} is empty: there is nothing to read.")
        document = Document(name, tuple(blocks), digest.hexdigest(), True, origin, place)
        if document != there:
            self._put(document)
        return sum(b.tokens for b in blocks) - old.tokens

    def forget(self, *names: str) -> None:
        """Remove documents.

        Raises:
            UserError: no document of that name; then none is removed.
        """
        manifest = self.present()
        for name in names:
            manifest.document(name)
        self.manifest = replace(manifest, documents=tuple(d for d in manifest.documents if d.name not in names))
        self.commit()

    def merge(self, other: str | Path) -> None:
        """Append the documents of another store to this one's; `commit` makes it permanent. The other store is not changed.

        Raises:
            UserError: it is another model's or of another kind, shares a document name with this one, or lacks a block.
        """
        other = as_path("other", other)
        theirs = read_manifest(other)
        ours = self._take_after(theirs, other)
        check_alike(self._like, ours, other, theirs)
        taken = {d.name for d in ours.documents}
        for document in theirs.documents:
            if document.name in taken:
                raise UserError(
                    f"{document.name} is in {other} and in what it is merged with: `sharedllm memory forget MEMORY "
                    f"{shlex.quote(document.name)}` drops it from one of them."
                )
        for document in theirs.documents:
            again = (
                f"`sharedllm read FILES -o {other} --append` reads it again, with the document's file; `sharedllm memory forget "
                f"{other} {shlex.quote(document.name)}` drops it."
            )
            for block in document.blocks:
                path = other / "blocks" / f"{block.file}.memory"
                try:
                    BlockFile(other, block, theirs, verify=True)
                    copy_block(path, self.folder)
                except FileNotFoundError:
                    raise UserError(f"{other} lacks a block of {document.name}: {again}") from None
                except UserError as error:
                    raise UserError(
                        f"{document.name} of {other} is damaged, so nothing is merged: {error} {again}"
                    ) from None
        self.manifest = replace(ours, documents=ours.documents + theirs.documents)

    def adopt(self, manifest: Manifest, blocks: Iterable[Path]) -> None:
        """Add documents whose blocks are in another folder, which is not changed; `commit` makes it permanent.

        Raises:
            UserError: there are documents here already.
        """
        ours = self._take_after(manifest, self.folder)
        if ours.documents:
            raise UserError(f"{self.folder} holds documents already: name a new memory.")
        for path in blocks:
            copy_block(path, self.folder)
        self.manifest = replace(manifest, generation=ours.generation)

    def commit(self) -> None:
        """Make all changes permanent."""
        self._held, self._unsaved = False, 0
        self.manifest = write_manifest(self.folder, self.present())
        self._sweep()

    def settle(self) -> None:
        """Commit the documents read so far, unless the store is to replace another one."""
        if self._unsaved and not self._held:
            self.commit()

    def _name(self) -> None:
        """Give a new store a manifest before any block: blocks without one are never removed, because they may be the
        only remains of a memory."""
        if not (self.folder / NAME).exists():
            self.manifest = write_manifest(self.folder, self.present())

    def _take_after(self, other: Manifest, folder: Path) -> Manifest:
        """The manifest of this store, which takes the kind of `other`, in `folder`, as long as it has no documents."""
        if self.manifest is None or not self.manifest.documents:
            generation = self.manifest.generation if self.manifest is not None else 0
            self.manifest, self._like = replace(other, documents=(), generation=generation), folder
            self._name()
        return self.present()

    def present(self) -> Manifest:
        """The current manifest.

        Raises:
            UserError: the store is not begun.
        """
        if self.manifest is None:
            raise UserError(f"{self.folder} holds no memory yet: begin one with `sharedllm read`.")
        return self.manifest

    def _put(self, document: Document) -> None:
        """Put a document in place of the one with its name, and commit if a block's worth of tokens is not committed yet."""
        manifest = self.present()
        files = {block.file for d in manifest.documents if d.name == document.name for block in d.blocks}
        self.manifest = manifest.with_document(document)
        # At least 1: a document of which nothing new was read may be finished now.
        self._unsaved += max(sum(block.tokens for block in document.blocks if block.file not in files), 1)
        if self._unsaved >= BLOCK_TOKENS:
            self.settle()

    def _skip(self, old: Document, pieces: Iterator[str]) -> tuple["hashlib._Hash", str]:
        """The hash of the text read earlier, and the rest of the piece in which that text ends."""
        digest, left = hashlib.sha256(), old.characters
        piece = next(pieces, "")
        while left > 0 and piece:
            digest.update(piece[:left].encode())
            left, piece = left - len(piece[:left]), piece[left:] or next(pieces, "")
        if left or digest.hexdigest() != old.sha256:
            raise Changed(
                f"{old.name} does not begin with the {old.characters:,} characters that were read under this name: "
                "forget it first, or read the text under another name."
            )
        return digest, piece

    def _block(
        self,
        model: SharedLLMForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        context: Tensor,
        ids: Tensor,
        characters: Tensor,
        source: dict[str, Any],
        batch_tokens: int | None,
        progress: Callable[[int], None] | None,
    ) -> Block:
        """Read tokens together with the tokens before them that they overlap with, and write the block.

        `source` stores in the block its document, its place in it and among the others, for `recover`.
        """
        manifest, size = self.present(), model.config.chunk_size
        again = -(-model.config.overlap // size) * size if len(context) else 0
        with torch.no_grad():
            memory = model.read(
                torch.cat([context[len(context) - again :], ids])[None].to(model.device),
                keep_all=manifest.complete, selection=without_query(model.config.selection), batch_tokens=batch_tokens, progress=progress,
                fingerprint=False,
            )  # fmt: skip
        # `Writer.read` has compared the model's fingerprint with this one.
        memory = replace(memory.slice(again, memory.lengths), sources=((source,),), fingerprint=manifest.fingerprint)
        name = secrets.token_hex(16)
        path = self.folder / "blocks" / f"{name}.memory"
        sentences = embedded_sentences(model.model, tokenizer, ids) if manifest.complete else None
        how = {"tokenizer": manifest.tokenizer, "storage": manifest.storage, "embedded": sentences}
        checksum = save_memory(memory, path, **how)
        return Block(name, len(ids), int(characters.sum()), checksum)

    def _block_tokens(self, model: SharedLLMForCausalLM) -> int:
        """Tokens of a block: a multiple of the chunk size, at least the overlap of the next block."""
        size = model.config.chunk_size
        return -(-max(BLOCK_TOKENS, model.config.overlap) // size) * size

    def _last_ids(self, blocks: list[Block]) -> Tensor:
        if not blocks:
            return torch.zeros(0, dtype=torch.long)
        return BlockFile(self.folder, blocks[-1], self.present(), verify=True).tensors["token_ids"][0].long()

    def _sweep(self) -> None:
        """Delete what the manifest does not name; nothing without one, nor while it is to replace another."""
        if not self._held and self.manifest is not None:
            sweep(self.folder, self.manifest)
