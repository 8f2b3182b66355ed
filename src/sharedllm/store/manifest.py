"""The layout of a store on disk: a folder with `manifest.json` and blocks, each a memory file.

    notes.memory/
      manifest.json          format and version, model, tokenizer, documents and their blocks; SHA-256 of all of it
      blocks/1f0c….memory    keys and values of up to some thousand tokens (`memory.file`), never changed once written
      meanings/              what questions had read deeper of blocks (`meanings`)
      lock                   held by the writer

The manifest is authoritative: it is replaced atomically by a rename, and names all blocks that belong to the store. A
block that it does not name was left by a killed writer, or has been removed from the store; the next writer deletes it.
Without a manifest nothing is deleted.
"""

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..documents.places import Origin
from ..memory.file import Storage, library
from ..memory.schema import CHUNK_SIZE, LAYERS, SHA256, STORAGE
from ..utils.errors import UserError, first_of, recovery, refusal, shown
from ..utils.fields import TRUTH, each, misfit_of, pair, record, text, whole
from ..utils.files import there, write_text
from ..utils.scratch import is_scratch
from .sealed import sealed, unsealed

FORMAT, VERSION = "sharedllm.store", 1
NAME = "manifest.json"
# A block's name, and its name while it is copied; while it is written it is in a folder of `utils.scratch`.
_BLOCK = re.compile(r"[0-9a-f]{32}\.memory(\.tmp[0-9a-f]{8})?")


# Manifests of older versions lack the fields in `_NEWER`.
_NEWER = frozenset({"lines", "origin", "place", "model", "part_of"})
_BLOCK_FIELDS = {
    "file": text("[0-9a-f]{32}"),
    "tokens": whole(1),
    "characters": whole(0),
    "sha256": SHA256,
    "lines": whole(0),
}
_ORIGIN = {
    "sha256": text("([0-9a-f]{64})?"),
    "title": text(),
    "unit": text(),
    "places": each(pair(whole(0), text())),
}
ORIGIN = record(_ORIGIN)
_DOCUMENT = {
    "name": text(),
    "blocks": each(_BLOCK_FIELDS, least=1, optional=_NEWER),
    "sha256": SHA256,
    "finished": TRUTH,
    "origin": ORIGIN,
    "place": whole(0),
    "part_of": text(),
}
_MANIFEST = {
    "fingerprint": text(),
    "tokenizer": text(),
    "chunk_size": CHUNK_SIZE,
    "pairs": LAYERS,
    "complete": TRUTH,
    "storage": STORAGE,
    "documents": each(_DOCUMENT, optional=_NEWER),
    "generation": whole(0),
    "library": text(),
    "model": text(),
}


def is_block(name: str) -> bool:
    """Whether a name in `blocks/` has the form that only a writer of stores gives."""
    return _BLOCK.fullmatch(name) is not None or is_scratch(name)


@dataclass(frozen=True)
class Block:
    """file: in `blocks/`. tokens, characters, lines: how many of the document it holds; a line counts where it ends, −1 is
    unknown, in memories of older versions. sha256: of its header, which holds the others' checksums."""

    file: str
    tokens: int
    characters: int
    sha256: str
    lines: int = -1


@dataclass(frozen=True)
class Document:
    """A text of the store: its blocks in order. All of them but the last fill their chunks.

    name      as given, unique in the store
    sha256    of its text so far, to tell whether a file has only grown
    finished  False while it is being read. It stays False if reading is interrupted; reading again continues there
    origin    the file it was read from; None for texts that come from elsewhere, and in memories of older versions
    place     among the documents that were read here: grows from one to the next. −1 is unknown, in memories of older versions
    part_of   the document of which `recover` found only this part, not its beginning; "" for a whole one
    """

    name: str
    blocks: tuple[Block, ...]
    sha256: str
    finished: bool = True
    origin: Origin | None = None
    place: int = -1
    part_of: str = ""

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)

    @property
    def characters(self) -> int:
        return sum(block.characters for block in self.blocks)


@dataclass(frozen=True)
class Manifest:
    """fingerprint: of the model. tokenizer: of its vocabulary. complete: every token is kept. storage: dtype of keys
    and values on disk, "model" or "int8". generation: how many times the store was written. library: version of the
    package that wrote it last. model: the last part of the model's name, to tell people; "" if unknown."""

    fingerprint: str
    tokenizer: str
    chunk_size: int
    pairs: int
    complete: bool
    storage: Storage = "model"
    documents: tuple[Document, ...] = ()
    generation: int = 0
    library: str = ""
    model: str = ""

    def with_document(self, document: Document) -> "Manifest":
        """The manifest with a document in place of the one with its name, or after all others."""
        names = [d.name for d in self.documents]
        place = names.index(document.name) if document.name in names else len(names)
        return replace(self, documents=(*self.documents[:place], document, *self.documents[place + 1 :]))

    def document(self, name: str) -> Document:
        """
        Raises:
            UserError: no document of that name.
        """
        for document in self.documents:
            if document.name == name:
                return document
        held = first_of((d.name for d in self.documents), like=name)
        raise UserError(f"no document is named {shown(name)}: the memory holds {held or 'none'}.")


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a store; returns it as written."""
    manifest = replace(manifest, generation=manifest.generation + 1, library=library())
    content = asdict(manifest)
    for document in content["documents"]:
        if document["place"] < 0:
            del document["place"]
        if not document["part_of"]:
            del document["part_of"]
        for block in document["blocks"]:
            if block["lines"] < 0:
                del block["lines"]
    write_text(folder / NAME, sealed(FORMAT, VERSION, content))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """
    Raises:
        UserError: the folder is not a store, has a newer format, or its manifest is damaged.
    """
    path = folder / NAME
    if there(folder) and folder.is_file():
        raise UserError(f"{folder} is a file, not a memory folder: make one with `sharedllm read`.")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would never end
            raise _damaged(path, "it is not a regular file")
        raw = path.read_bytes()
    except FileNotFoundError:
        if not folder.exists():
            raise UserError(f"{folder} does not exist: check the name, or make it with `sharedllm read`.") from None
        raise UserError(f"{folder} is not a memory: it has no {NAME}; make one with `sharedllm read`.") from None
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} can't be read: {refusal(error)}.") from None
    except OSError:
        raise _damaged(path, "it can't be read") from None
    content = unsealed(raw, path, FORMAT, VERSION, "a memory", lambda what: _damaged(path, what))
    wrong = misfit_of(content, _MANIFEST, _NEWER) or _contradiction(content)
    if wrong is not None:
        raise _damaged(path, wrong)
    return _manifest(content)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is damaged: {what}; save the content of its blocks with {recovery(path.parent)}, or read the texts again, "
        "into another memory."
    )


def _manifest(content: dict[str, Any]) -> Manifest:
    documents = tuple(
        Document(
            d["name"],
            tuple(Block(**{n: block[n] for n in _BLOCK_FIELDS if n in block}) for block in d["blocks"]),
            d["sha256"],
            d["finished"],
            origin_of(d.get("origin")),
            d.get("place", -1),
            d.get("part_of", ""),
        )
        for d in content["documents"]
    )
    known = {f.name for f in fields(Manifest)} - {"documents"}
    return Manifest(**{name: content[name] for name in known if name in content}, documents=documents)


def origin_of(content: dict[str, Any] | None) -> Origin | None:
    """The origin that a JSON object of the kind `ORIGIN` holds."""
    if content is None:
        return None
    places = tuple((character, place) for character, place in content["places"])
    return Origin(content["sha256"], content["title"], content["unit"], places)


def _contradiction(content: dict[str, Any]) -> str | None:
    """A contradiction within a manifest whose single fields are all valid; None if there is none."""
    documents, size = content["documents"], content["chunk_size"]
    names = [d["name"] for d in documents]
    if len(set(names)) < len(names):
        return "two documents have one name"
    files = [block["file"] for d in documents for block in d["blocks"]]
    if len(set(files)) < len(files):
        return "a block is named twice"
    for d in documents:
        if any(block["tokens"] % size for block in d["blocks"][:-1]):
            return f"a block of {d['name']!r} ends within a chunk of {size}, and is not the last"
    return None
