"""The records of a shard, read without what lies before them in their file.

Plain lines are read by their bytes, which the plan knows. A compressed file can only be read from its start, and a row group of
Parquet from its own: there the file stays open, and the next span goes on where the last one ended. So a reader that gets its
shards in the order of the plan reads each file once at most, whatever the number of its shards.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from typing import Any

from ..utils.errors import UserError
from .objects import Place, named
from .sources import Span, chunks_of, opened, parquet

# Rows of Parquet that are decoded together.
_ROWS = 256


class Records:
    """Reads the records of spans, and holds the last one's file open. Not for several threads."""

    def __init__(self) -> None:
        self._file: tuple[str, str] | None = None
        self._stream: _Lines | _Table | None = None

    def of(self, span: Span) -> Iterator[tuple[int, Any]]:
        """The number, from 0, and content of each record of a span: a line's bytes, or a row's values.

        Raises:
            UserError: its file is gone, has changed since it was listed, or is damaged.
        """
        if span.nbytes:
            yield from enumerate(_plain(span), span.first)
            return
        if self._file != (span.source, span.path):
            self.close()
            self._stream = _Table(span) if span.kind == "table" else _Lines(span)
            self._file = span.source, span.path
        assert self._stream is not None
        try:
            yield from enumerate(self._stream.records(span.first, span.count), span.first)
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._file = self._stream = None


class Damaged(UserError):
    """Records first … end − 1 of a file can't be decoded; others may."""

    def __init__(self, name: str, first: int, end: int, error: Exception):
        super().__init__(f"{name} is damaged from record {first + 1} to {end}: {error}")
        self.first, self.end = first, end


class Changed(UserError):
    """A file is not what it was when its shard was named."""

    def __init__(self, span: Span):
        super().__init__(f"{span.name} has changed since it was listed: run it again.")


def _plain(span: Span) -> list[bytes]:
    """The lines of a file that is not compressed."""
    content = Place(span.source or ".").part(span.path, span.offset, span.offset + span.nbytes)
    lines = content.split(b"\n")
    if len(content) != span.nbytes or len(lines) != span.count or not all(map(bytes.strip, lines)):
        raise Changed(span)
    return lines


class _Stream(ABC):
    """A file of records that is read in chunks.

    _held  the chunk in hand; None before the first. _start: the number of its first record, or of the next chunk's
    """

    def __init__(self, span: Span):
        self._span = span
        self._begin(0)

    def _begin(self, first: int) -> None:
        """Read on from the last place before record `first` where that is possible."""
        self._held: Any = None
        self._start, self._chunks = self._from(first)

    @abstractmethod
    def _from(self, first: int) -> tuple[int, Generator[Any]]:
        """Such a place's number, and the chunks from there on."""

    def _away(self, first: int) -> bool:
        """Whether it would be wrong to read on to a record from here."""
        return first < self._start

    def _listed(self, part: Any) -> Sequence[Any]:
        return part

    def records(self, first: int, count: int) -> Iterator[Any]:
        """
        Raises:
            UserError: there are fewer.
        """
        if self._away(first):
            self._chunks.close()
            self._begin(first)
        while count:
            while self._held is None or first >= self._start + len(self._held):
                self._start += 0 if self._held is None else len(self._held)
                self._held = next(self._chunks, None)
                if self._held is None:
                    raise Changed(self._span)
            part = self._held[first - self._start : first - self._start + count]
            first, count = first + len(part), count - len(part)
            yield from self._listed(part)

    def close(self) -> None:
        self._chunks.close()


class _Lines(_Stream):
    """Lines of a compressed file."""

    def _from(self, first: int) -> tuple[int, Generator[Any]]:
        return 0, chunks_of(self._span)


class _Table(_Stream):
    """Rows of Parquet."""

    def __init__(self, span: Span):
        with ExitStack() as stack:
            self._table = parquet(stack.enter_context(opened(span)))
            rows = [self._table.metadata.row_group(i).num_rows for i in range(self._table.num_row_groups)]
            self._open = stack.pop_all()
        # The first row of each group, and the number of all rows.
        self._groups = [0, *accumulate(rows)]
        super().__init__(span)

    def _group(self, row: int) -> int:
        return bisect_right(self._groups, row) - 1

    def _from(self, first: int) -> tuple[int, Generator[Any]]:
        group = self._group(first)
        return self._groups[group], self._batches(group)

    def _batches(self, group: int) -> Generator[Any]:
        from pyarrow import ArrowException

        span, number = self._span, self._groups[group]
        with named(span.source or span.path, needed=True):
            try:
                for each in range(group, len(self._groups) - 1):  # one by one, as none is decoded before it is needed
                    for batch in self._table.iter_batches(_ROWS, row_groups=[each]):
                        yield batch
                        number += len(batch)
            except (ArrowException, OSError) as error:
                # Of what its bytes say, Arrow raises an error without a number of the system.
                if isinstance(error, OSError) and (span.source or error.errno is not None):
                    raise
                end = self._groups[self._group(number) + 1]
                raise Damaged(span.name, number, end, error) from None

    def _away(self, first: int) -> bool:
        return super()._away(first) or self._group(first) > self._group(self._start)

    def _listed(self, part: Any) -> Sequence[Any]:
        return part.to_pylist()

    def close(self) -> None:
        super().close()
        self._open.close()
