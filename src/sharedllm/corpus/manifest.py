"""The two kinds of small objects that say what a corpus holds: `corpus.json` and, for each shard, its part."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..documents.places import Origin
from ..memory.file import Storage, library
from ..memory.schema import CHUNK_SIZE, LAYERS, SHA256, STORAGE
from ..store.manifest import Block, Document
from ..store.sealed import sealed, unsealed
from ..utils.errors import ITS_MODEL, UserError
from ..utils.fields import Kind, each, misfit_of, pair, record, text, whole
from .objects import Lost, Place

FORMAT, PART, VERSION = "sharedllm.corpus", "sharedllm.corpus.part", 1
NAME = "corpus.json"

_SETTINGS: dict[str, Kind] = {
    "fingerprint": text(),
    "tokenizer": text(),
    "chunk_size": CHUNK_SIZE,
    "pairs": LAYERS,
    "storage": STORAGE,
    "batch_tokens": whole(1),
    "shard_bytes": whole(1),
    "stretches": whole(1),
}
_OBJECT = {"name": text(r"[a-z]+/[0-9a-f-]+\.[a-z]+"), "nbytes": whole(1), "sha256": SHA256}
_TOTALS = {"documents": whole(0), "tokens": whole(0), "nbytes": whole(0), "failed": whole(0)}
_CORPUS: dict[str, Kind] = {"settings": record(_SETTINGS), "index": record(_OBJECT), "totals": record(_TOTALS)}
_ORIGIN = {
    "sha256": text("([0-9a-f]{64})?"),
    "title": text(),
    "unit": text(),
    "places": each(pair(whole(0), text())),
}
_BLOCK = {name: whole(0) for name in ("offset", "nbytes", "tokens", "characters", "lines")} | {"sha256": SHA256}
_DOCUMENT = {"name": text(), "sha256": SHA256, "origin": record(_ORIGIN), "blocks": each(_BLOCK, least=1)}
_PART: dict[str, Kind] = {
    "shard": text("[0-9a-f]{32}"),
    "blocks": record(_OBJECT),
    "index": record(_OBJECT),
    "sums": each(text("[0-9a-f]{32}")),
    "documents": each(_DOCUMENT),
    "failed": each(pair(text(), text())),
}
# The settings that a user gives.
_GIVEN = ("storage", "batch_tokens", "shard_bytes")


@dataclass(frozen=True)
class Settings:
    """What all memories of a corpus share: the model and how it read. Two runs of equal settings give equal bytes.

    batch_tokens: tokens read at once. shard_bytes: documents are put into one shard up to this size of their files.
    stretches: see `summary`. Others are as in `store.manifest.Manifest`.
    """

    fingerprint: str
    tokenizer: str
    chunk_size: int
    pairs: int
    storage: Storage
    batch_tokens: int
    shard_bytes: int
    stretches: int

    def check(self, found: "Settings", uri: str) -> None:
        """
        Raises:
            UserError: the corpus there has other settings; names the first field that differs.
        """
        for name, here in asdict(self).items():
            there = getattr(found, name)
            if there != here:
                fix = f"give {name}={there!r}" if name in _GIVEN else "read it with the version that began it"
                fix = ITS_MODEL if name in ("fingerprint", "tokenizer") else fix
                raise UserError(f"{uri} was read with {name}={there!r}, not {here!r}: {fix}, or name another URI.")


@dataclass(frozen=True)
class Object:
    """An object that never changes: its name, size and SHA-256."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Totals:
    """failed: documents that could not be read. nbytes: of all memories."""

    documents: int = 0
    tokens: int = 0
    nbytes: int = 0
    failed: int = 0


@dataclass(frozen=True)
class CorpusManifest:
    """index: of all that was read by the end of the last run; None while the first one goes on."""

    settings: Settings
    index: Object | None = None
    totals: Totals = Totals()


@dataclass(frozen=True)
class Part:
    """A shard that was read.

    blocks, index  its objects; None if it has no readable document
    sums           SHA-256 of each stretch of `ranged.STEP` bytes of `blocks`, 32 hex digits
    documents      with their blocks, whose `file` is "OFFSET+BYTES" in `blocks`
    failed         name and reason of documents that could not be read
    """

    shard: str
    blocks: Object | None
    index: Object | None
    sums: tuple[str, ...] = ()
    documents: tuple[Document, ...] = ()
    failed: tuple[tuple[str, str], ...] = field(default=())

    @property
    def tokens(self) -> int:
        return sum(document.tokens for document in self.documents)


def write_manifest(place: Place, manifest: CorpusManifest) -> None:
    place.write(NAME, _written(FORMAT, asdict(manifest)))


def read_manifest(place: Place) -> CorpusManifest | None:
    """The manifest; None if there is no corpus.

    Raises:
        UserError: it is damaged, of another kind or of a newer format.
    """
    raw = place.read(NAME)
    if raw is None:
        return None
    content = _read(raw, f"{place.uri}/{NAME}", FORMAT, _CORPUS)
    settings = Settings(**{f.name: content["settings"][f.name] for f in fields(Settings)})
    totals = Totals(**{f.name: content["totals"][f.name] for f in fields(Totals)})
    return CorpusManifest(settings, _object(content["index"]), totals)


def write_part(place: Place, part: Part) -> None:
    """Commit a shard: its objects are there already."""
    content = asdict(part)
    for document in content["documents"]:
        del document["finished"], document["place"], document["part_of"]
        for block in document["blocks"]:
            block["offset"], block["nbytes"] = map(int, block.pop("file").split("+"))
    place.write(f"parts/{part.shard}.json", _written(PART, content))


def read_part(place: Place, shard: str) -> Part | None:
    """The part of a shard; None if it is not committed.

    Raises:
        UserError: it is damaged.
    """
    raw = place.read(f"parts/{shard}.json")
    if raw is None:
        return None
    name = f"{place.uri}/parts/{shard}.json"
    content = _read(raw, name, PART, _PART)
    if content["shard"] != shard:
        raise Lost.damaged(name, f"it is of shard {content['shard']}")
    return Part(
        shard,
        _object(content["blocks"]),
        _object(content["index"]),
        tuple(content["sums"]),
        tuple(map(_document, content["documents"])),
        tuple((name, reason) for name, reason in content["failed"]),
    )


def _document(content: dict[str, Any]) -> Document:
    blocks = tuple(
        Block(f"{b['offset']}+{b['nbytes']}", b["tokens"], b["characters"], b["sha256"], b["lines"])
        for b in content["blocks"]
    )
    origin = content["origin"]
    if origin is not None:
        places = tuple((character, place) for character, place in origin["places"])
        origin = Origin(origin["sha256"], origin["title"], origin["unit"], places)
    return Document(content["name"], blocks, content["sha256"], True, origin)


def _object(content: dict[str, Any] | None) -> Object | None:
    return None if content is None else Object(content["name"], content["nbytes"], content["sha256"])


def _written(kind: str, content: dict[str, Any]) -> bytes:
    return sealed(kind, VERSION, {"library": library()} | content).encode()


def _read(raw: bytes, name: str, kind: str, schema: dict[str, Kind]) -> dict[str, Any]:
    content = unsealed(raw, name, kind, VERSION, "of a corpus", lambda what: Lost.damaged(name, what))
    wrong = misfit_of(content, schema)
    if wrong is not None:
        raise Lost.damaged(name, wrong)
    return content
