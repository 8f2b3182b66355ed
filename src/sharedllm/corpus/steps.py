"""The blocks of a shard, read in steps: stretches of 128 KiB, each of which has a checksum in the shard's part."""

from collections.abc import Sequence

from .cache import DiskCache, digest
from .manifest import Part
from .objects import Lost, Place
from .ranged import STEP


class Steps:
    """Reads any bytes of a shard's blocks (`ranged.Fetch`). All steps around them are fetched and compared; what comes from
    elsewhere is kept in a cache.

    name  of the object, with its address
    """

    def __init__(self, place: Place, part: Part, cache: DiskCache | None = None):
        assert part.blocks is not None
        self._place, self._blocks, self._sums, self._cache = place, part.blocks, part.sums, cache
        self.name = f"{place.uri}/{part.blocks.name}"

    def __call__(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes start … end − 1 for each span.

        Raises:
            Lost: the object is missing, cut short, or not what was written.
        """
        steps = sorted({step for start, end in spans for step in range(start // STEP, -(-end // STEP))})
        held = dict(zip(steps, self._kept(steps), strict=True))
        return [
            b"".join(
                held[step][max(start - step * STEP, 0) : end - step * STEP]
                for step in range(start // STEP, -(-end // STEP))
            )
            for start, end in spans
        ]

    def _kept(self, steps: Sequence[int]) -> list[bytes]:
        if self._cache is None:
            return self._fetched(steps)
        sums = [self._sums[step] for step in steps]
        return self._cache.get(sums, lambda lacking: self._fetched([steps[i] for i in lacking]))

    def _fetched(self, steps: Sequence[int]) -> list[bytes]:
        borders = [(step * STEP, min((step + 1) * STEP, self._blocks.nbytes)) for step in steps]
        found = self._place.ranges(self._blocks.name, borders)
        for step, (start, end), content in zip(steps, borders, found, strict=True):
            if digest(content) != self._sums[step]:
                raise Lost.damaged(self.name, f"the checksum of bytes {start:,}–{end:,} does not match")
        return found
