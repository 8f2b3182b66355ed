"""What a corpus holds before a run: shards that need not be read again, and documents that would fall out of it."""

from collections.abc import Iterator, Sequence

from ..utils.errors import UserError
from .index import read_index
from .manifest import CorpusManifest, Object, Part, read_part
from .objects import Place
from .sources import Shard


def whole(place: Place, shards: Sequence[Shard]) -> dict[str, Part]:
    """The parts of those shards that are committed and have their objects, by name. Of the others a part is removed if it is
    there, so that they are read again. Objects are not read, only their sizes are compared.

    Raises:
        UserError: a part is damaged.
    """
    there = place.names("parts")
    parts = {s.id: part for s in shards if f"{s.id}.json" in there and (part := read_part(place, s.id)) is not None}
    # Sizes after parts: what another run commits meanwhile has its objects before its part.
    sizes = place.sizes("shards")
    for part in list(parts.values()):
        if not all(_has(sizes, found) for found in (part.blocks, part.index) if found is not None):
            place.remove(f"parts/{part.shard}.json")
            del parts[part.shard]
    return parts


def check_kept(place: Place, manifest: CorpusManifest, shards: Sequence[Shard]) -> None:
    """Refuse shards that lack a document of the corpus. One without its index, as after the first run was killed, has none.

    Raises:
        UserError: there is such a document; or the index is damaged.
    """
    if manifest.index is None or not _has(place.sizes("index"), manifest.index):
        return
    given = set(_names(shards))
    lost = [name for name in read_index(place, manifest.index).names if name not in given]
    if lost:
        which = lost[0] if len(lost) == 1 else f"{len(lost):,} documents, as {lost[0]},"
        raise UserError(
            f"{place.uri} holds {which} that these sources lack: name them too, or drop them from it with replace=True."
        )


def _has(sizes: dict[str, int], which: Object) -> bool:
    return sizes.get(which.name.rpartition("/")[2]) == which.nbytes


def _names(shards: Sequence[Shard]) -> Iterator[str]:
    """The names of the documents of shards, as `items.texts` gives them."""
    for span in (span for shard in shards for span in shard.spans):
        if span.kind == "file":
            yield span.name
        else:
            yield from map(span.record, range(span.first, span.first + span.count))
