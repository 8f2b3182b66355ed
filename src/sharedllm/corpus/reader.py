"""Reading one shard: its documents, one after the other, into one object of memories, and committing it."""

import hashlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..loading import load_shared, load_shared_config
from ..memory.file import Storage
from ..memory.fingerprint import tokenizer_fingerprint
from ..memory.segment import Segment
from ..store import MemoryStore
from ..store.blocks import BlockFile
from ..store.manifest import Document
from ..store.writer import Writer, writing
from ..utils.checkpoints import load_tokenizer
from ..utils.errors import UserError, is_full, refusal
from ..utils.scratch import scratch, sweep
from .cache import digest
from .items import Text, texts
from .manifest import Object, Part, Settings, read_part, write_part
from .objects import Place
from .ranged import STEP
from .records import Changed, Records
from .sources import Shard
from .summary import STRETCHES, KeySummary
from .terms import Terms, counted


@dataclass(frozen=True)
class Outcome:
    """What became of a shard, in plain values that any engine can carry.

    tokens  read now; 0 if it was committed already. seconds: of the processor
    error   why nothing was committed, which a user can fix; "" if all is well
    """

    shard: str
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""


def load_for_reading(name: str) -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase]:
    """
    Raises:
        UserError: there is no such model, or it is no SharedLLM that can keep every token.
    """
    if (encoding := load_shared_config(name).encoding) != "chunk":
        raise UserError(f"{name} has encoding={encoding!r}: a corpus keeps every token, which needs 'chunk'.")
    return load_shared(name), load_tokenizer(name)


def settings_of(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    storage: Storage,
    batch_tokens: int,
    shard_bytes: int,
) -> Settings:
    config = model.config
    return Settings(
        model.fingerprint(), tokenizer_fingerprint(tokenizer), config.chunk_size, len(config.injection_map), storage, batch_tokens,
        shard_bytes, STRETCHES,
    )  # fmt: skip


class Reader:
    """A loaded model that reads shards into a corpus. Every worker has one."""

    def __init__(self, model: str, uri: str, settings: Settings, threads: int = 1):
        """
        Args:
            threads: of the processor. Results are equal to the bit only between readers of equal numbers.

        Raises:
            UserError: the model is not the one that the settings name, or the store can't be opened.
        """
        torch.set_num_threads(threads)
        sweep()
        self.model, self.tokenizer = load_for_reading(model)
        self.place, self.settings, self.records = Place(uri), settings, Records()
        self.place.sweep()
        own = settings_of(self.model, self.tokenizer, settings.storage, settings.batch_tokens, settings.shard_bytes)
        own.check(settings, uri)

    @torch.no_grad()
    def read(self, shard: Shard) -> Outcome:
        """Read a shard and commit it, unless it is committed already.

        Raises:
            UserError: the store, or a file of records, can't be used, or the disk is full; nothing is committed.
        """
        begun, tokens = time.process_time(), 0
        if read_part(self.place, shard.id) is None:
            try:
                with scratch() as folder:
                    part = self._part(shard, folder)
            except OSError as error:
                if not is_full(error):
                    raise
                raise UserError(f"the disk of {tempfile.gettempdir()} is full: free space, or set TMPDIR.") from None
            write_part(self.place, part)
            tokens = part.tokens
        return Outcome(shard.id, tokens, time.process_time() - begun)

    def _part(self, shard: Shard, folder: Path) -> Part:
        failed: list[tuple[str, str]] = []
        words: dict[str, Counter[str]] = {}
        with writing(folder / "shard.memory") as writer:
            writer.begin(self.model, self.settings.tokenizer, keep_all=True, storage=self.settings.storage)
            for name, opens in texts(shard, self.records):
                if name in words:
                    failed.append((name, f"{name} is named twice: only the first is read."))
                    continue
                try:
                    words[name] = self._document(writer, name, opens())
                except Exception as error:  # whatever a document does to the libraries, the others are read
                    failed.append((name, _reason(name, error)))
                    if any(d.name == name for d in writer.present().documents):
                        writer.forget(name)
            writer.commit()
        store = MemoryStore.open(folder / "shard.memory", verify=False)
        if not store.documents:
            return Part(shard.id, None, None, failed=tuple(failed))
        packed, file, sums = _packed(store, folder)
        blocks = _object("shards", shard.id, "blocks", file)
        index = Terms.of([words[d.name] for d in packed]).tensors()
        summary = KeySummary.of(self.model.model, [_alone(store, d) for d in store.documents])
        content = save(index | (summary.tensors() if summary is not None else {}))
        file_index = folder / "index"
        file_index.write_bytes(content)
        listed = _object("shards", shard.id, "index", file_index)
        self.place.put(blocks.name, file)
        self.place.put(listed.name, file_index)
        return Part(shard.id, blocks, listed, sums, packed, tuple(failed))

    def _document(self, writer: Writer, name: str, text: Text) -> Counter[str]:
        """Read a document; returns its terms."""
        seen: Counter[str] = Counter()

        def counting() -> Iterator[str]:
            for piece in text.pieces():
                seen.update(counted([piece]))
                yield piece

        writer.read(
            self.model, self.tokenizer, name, counting(), origin=text.origin, batch_tokens=self.settings.batch_tokens
        )
        return seen


def _reason(name: str, error: Exception) -> str:
    """Why a document can't be read; an error of this machine and not of the document is raised again, and that it has changed."""
    if isinstance(error, MemoryError | Changed) or (isinstance(error, OSError) and is_full(error)):
        raise error
    if isinstance(error, OSError):
        return f"{name} can't be read: {refusal(error)}."
    return (str(error) if isinstance(error, UserError) else f"{name}: {type(error).__name__}: {error}")[:1000]


def _alone(store: MemoryStore, document: Document) -> list[Segment]:
    """The segments of one document, the first at slot 0."""
    alone = replace(store.manifest, documents=(document,))
    return MemoryStore.of(store.folder, alone, partial(BlockFile, store.folder, manifest=alone, verify=False)).segments


def _packed(store: MemoryStore, folder: Path) -> tuple[tuple[Document, ...], Path, tuple[str, ...]]:
    """The documents with the places of their blocks in one file, that file, and the digests of its steps."""
    file, documents = folder / "blocks", []
    with file.open("wb") as out:
        for document in store.documents:
            blocks = []
            for block in document.blocks:
                start = out.tell()
                with (store.folder / "blocks" / f"{block.file}.memory").open("rb") as source:
                    shutil.copyfileobj(source, out)
                blocks.append(replace(block, file=f"{start}+{out.tell() - start}"))
            documents.append(replace(document, blocks=tuple(blocks)))
    with file.open("rb") as made:
        sums = tuple(digest(step) for step in iter(lambda: made.read(STEP), b""))
    return tuple(documents), file, sums


def _object(folder: str, shard: str, kind: str, file: Path) -> Object:
    """The object that a file is to become, named by its content."""
    with file.open("rb") as made:
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
    return Object(f"{folder}/{shard}-{sha256[:16]}.{kind}", file.stat().st_size, sha256)
