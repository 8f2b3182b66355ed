"""What a corpus holds before a run: shards that need not be read again."""

from collections.abc import Sequence

from .manifest import Object, Part, read_part
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


def _has(sizes: dict[str, int], which: Object) -> bool:
    return sizes.get(which.name.rpartition("/")[2]) == which.nbytes
