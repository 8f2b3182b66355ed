"""The memories that were opened when the server began, by name, and changes of their documents."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..store import MemoryStore
from ..store.manifest import read_manifest
from ..store.writer import Writer, writing
from ..utils.errors import UserError
from .errors import ServingError, invalid


@dataclass(frozen=True)
class Opened:
    """A memory as it was when it was opened last. nbytes: on disk."""

    store: MemoryStore
    nbytes: int


class Memories:
    """Memories by the names of their folders. Only the worker's thread changes them; others may look."""

    def __init__(self, stores: Sequence[MemoryStore]):
        """
        Raises:
            UserError: two of one name, or one that does not hold every token.
        """
        self._opened: dict[str, Opened] = {}
        for store in stores:
            name = store.folder.resolve().name.removesuffix(".memory")
            if name in self._opened:
                raise UserError(f"{store.folder} and {self[name].store.folder} are both {name!r}: rename one.")
            if not store.manifest.complete:
                raise UserError(f"{store.folder} does not hold every token: read its texts with --keep-all.")
            self._opened[name] = Opened(store, store.nbytes)

    def __getitem__(self, name: str) -> Opened:
        """
        Raises:
            ServingError: none of that name.
        """
        if name not in self._opened:
            there = ", ".join(self._opened) or "none"
            raise ServingError(404, f"memory={name!r} is not served: there are {there}.", "memory")
        return self._opened[name]

    def meant(self, name: str | None) -> str | None:
        """What a request reads from: what it names, or if it names none the only one there is; "" asks for none.

        Raises:
            ServingError: none of that name.
        """
        if name:
            _ = self[name]
            return name
        return next(iter(self._opened)) if name is None and len(self._opened) == 1 else None

    def current(self, name: str) -> MemoryStore:
        """The store of a name, opened again if another process has changed it; for the worker's thread.

        Raises:
            ServingError: none of that name, or what is there now can't be asked.
        """
        held = self[name].store
        folder, manifest = held.folder, held.manifest
        try:
            if read_manifest(folder) == manifest:
                return held
            store = MemoryStore.open(folder, fingerprint=manifest.fingerprint, tokenizer=manifest.tokenizer)
        except UserError as error:
            raise ServingError(409, f"memory={name!r} was changed by another process: {error}", "memory") from None
        if not store.manifest.complete:
            message = f"memory={name!r} does not hold every token any more: read its texts again with --keep-all."
            raise ServingError(409, message, "memory")
        self._opened[name] = Opened(store, store.nbytes)
        return store

    def listed(self) -> list[dict[str, Any]]:
        """Name, size and documents of each."""
        return [self.described(name) for name in self._opened]

    def described(self, name: str) -> dict[str, Any]:
        opened = self[name]
        documents = [
            {"name": d.name, "tokens": d.tokens, "characters": d.characters, "finished": d.finished}
            for d in opened.store.documents
        ]
        size = {"tokens": opened.store.tokens, "bytes": opened.nbytes}
        return {"id": name, "object": "memory", **size, "documents": documents}

    def add(
        self,
        name: str,
        document: str,
        text: str,
        model: SharedLLMForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        progress: Callable[[int], None],
    ) -> dict[str, Any]:
        """Read a document into a memory; one that is there goes on where it ended. Returns the memory, described.

        Raises:
            ServingError: no such memory, or another process is writing to it. UserError: the text does not begin as what
                was read under this name.
            Whatever `progress` raises; what was read until then stays, as a document that is not finished.
        """
        if not text.strip():
            raise invalid("text", f"text={text[:20]!r} is empty: send what is to be read.")

        def change(writer: Writer) -> None:
            writer.read(model, tokenizer, document, [text], progress=progress)

        return self._changed(name, change)

    def remove(self, name: str, document: str) -> dict[str, Any]:
        """Take a document out of a memory. Returns the memory, described.

        Raises:
            ServingError: no such memory or document, or another process is writing to it.
        """

        def change(writer: Writer) -> None:
            try:
                writer.forget(document)
            except UserError as error:
                raise ServingError(404, str(error), "document") from None

        return self._changed(name, change)

    def _changed(self, name: str, change: Callable[[Writer], None]) -> dict[str, Any]:
        old = self[name].store
        marks = {"fingerprint": old.manifest.fingerprint, "tokenizer": old.manifest.tokenizer}
        try:
            with ExitStack() as stack:
                try:
                    writer = stack.enter_context(writing(old.folder))
                except UserError as error:
                    raise ServingError(409, str(error), "memory") from None
                change(writer)
        finally:
            # What was committed counts, whether all went well or not; our own blocks need no check.
            store = MemoryStore.open(old.folder, **marks, verify=False)
            self._opened[name] = Opened(store, store.nbytes)
        return self.described(name)
