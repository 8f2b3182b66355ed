"""What a corpus is read from, cut into shards. The cut depends on the source alone, never on who reads it.

A source is a folder, a glob, a file, or a URI of such. Each file is a document of any kind that `documents` opens, except files of
records (.jsonl, .parquet): there each record is one. Shards are named by the content of their documents, so that a changed
document is read again and all others stay.
"""

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..documents import find
from ..documents.opening import hash_of
from ..utils import compressed
from ..utils.errors import UserError
from ..utils.files import is_uri
from ..utils.text_files import readable
from .objects import Place, named

LINES, TABLES = (".jsonl", ".ndjson"), (".parquet",)
# What a shard is named by, of its spans.
_NAMING = ("source", "path", "kind", "first", "count")


@dataclass(frozen=True)
class Span:
    """A file, or records first … first + count − 1 of one; records count from 0.

    source  the URI under which it was found; "" for a path on this machine
    kind    "file", "lines" or "table"
    offset  of the first byte of its lines, and nbytes from there to the end of the last one; 0 if the file is compressed, so that
            it can only be read from its start
    sha256  of a file on this machine when it was listed; "" of others
    """

    source: str
    path: str
    kind: str = "file"
    first: int = 0
    count: int = 1
    offset: int = 0
    nbytes: int = 0
    sha256: str = ""

    @property
    def name(self) -> str:
        return readable(self.path)

    def record(self, number: int) -> str:
        """The name of a record: its file and its number from 1, as of the line of a file."""
        return f"{self.name}:{number + 1}"


@dataclass(frozen=True)
class Shard:
    """Documents that one worker reads and commits together."""

    id: str
    spans: tuple[Span, ...]
    nbytes: int


@dataclass(frozen=True)
class Item:
    """A document or record before it is put into a shard. content: what changes with its content."""

    span: Span
    nbytes: int
    content: str


def plan(
    sources: Sequence[str], shard_bytes: int, exclude: Sequence[str] = ()
) -> tuple[list[Shard], list[tuple[str, str]]]:
    """The shards of sources, in order, each up to `shard_bytes` bytes of files or one larger document; and path and reason of
    files that can't be listed or opened.

    Raises:
        UserError: a source is missing, holds no file, or can't be reached.
    """
    unreadable: list[tuple[str, str]] = []
    return list(_shards(_items(sources, exclude, unreadable), shard_bytes)), unreadable


def kind_of(path: str) -> str:
    """How a file is read: "lines" and "table" are records."""
    suffixes = [s.lower() for s in PurePosixPath(path).suffixes]
    if suffixes and suffixes[-1] in compressed.SUFFIXES:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return "lines" if last in LINES else "table" if last in TABLES else "file"


def _items(sources: Sequence[str], exclude: Sequence[str], unreadable: list[tuple[str, str]]) -> Iterator[Item]:
    seen: set[str] = set()
    for source in sources:
        if is_uri(source):
            files, uri = list(Place(source).files()), source
            if not files:
                raise UserError(f"{source} holds no file to read: check the address.")
        else:
            found = find([source], exclude)
            unreadable += found.unreadable
            files, uri = [(file, "", 0) for file in found.files], ""
        for path, stamp, nbytes in files:
            if path in seen:
                continue
            seen.add(path)
            try:
                yield from _of_file(Span(uri, path, kind_of(path)), stamp, nbytes)
            except (UserError, OSError) as error:
                if len(files) == 1 and len(sources) == 1:
                    raise UserError(str(error) if path in str(error) else f"{path} can't be read: {error}") from None
                unreadable.append((readable(path), str(error)))


def _of_file(span: Span, stamp: str, nbytes: int) -> Iterator[Item]:
    if span.kind == "lines":
        plain, offset = not compressed.is_compressed(span.path), 0
        for number, line in enumerate(lines_of(span)):
            if line.strip():
                place = (offset, len(line)) if plain else (0, 0)
                content = hashlib.sha256(line).hexdigest()
                yield Item(Span(span.source, span.path, "lines", number, 1, *place), len(line), content)
            offset += len(line) + 1
    elif span.kind == "table":
        with opened(span) as file:
            table = parquet(file)
            rows, size = (
                table.metadata.num_rows,
                sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups)),
            )
        stamp = stamp or hash_of(Path(span.path))
        for number in range(rows):
            yield Item(Span(span.source, span.path, "table", number), max(1, size // max(rows, 1)), f"{stamp} {number}")
    elif span.source:
        yield Item(span, nbytes, stamp)
    else:
        sha256 = hash_of(Path(span.path))
        yield Item(replace(span, sha256=sha256), Path(span.path).stat().st_size, sha256)


def _shards(items: Iterable[Item], most: int) -> Iterator[Shard]:
    held: list[Item] = []
    size = 0
    for item in items:
        if held and size + item.nbytes > most:
            yield _shard(held, size)
            held, size = [], 0
        held.append(item)
        size += item.nbytes
    if held:
        yield _shard(held, size)


def _shard(items: list[Item], nbytes: int) -> Shard:
    spans: list[Span] = []
    for span in (item.span for item in items):
        last = spans[-1] if spans else None
        if (
            last
            and span.kind != "file"
            and (last.source, last.path, last.first + last.count) == (span.source, span.path, span.first)
        ):
            end = span.offset + span.nbytes
            spans[-1] = replace(last, count=last.count + 1, nbytes=end - last.offset)
        else:
            spans.append(span)
    named = [{name: getattr(span, name) for name in _NAMING} for span in spans]
    said = json.dumps([named, [item.content for item in items]])
    return Shard(hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:32], tuple(spans), nbytes)


@contextmanager
def opened(span: Span) -> Iterator[Any]:
    """The file of a span, for reading, decompressed.

    Raises:
        UserError: it is gone, or its store fails.
    """
    with (
        named(span.source or span.path, needed=True),
        Place(span.source or ".").opened(span.path) as file,
        compressed.decompressed(span.path, file) as content,
    ):
        yield content


def lines_of(span: Span) -> Iterator[bytes]:
    """The lines of a file, without their ends; see `chunks_of`."""
    for lines in chunks_of(span):
        yield from lines


def chunks_of(span: Span) -> Generator[list[bytes]]:
    """The lines of a file, without their ends, some at a time.

    Raises:
        UserError: as `opened`; or it is damaged.
    """
    with opened(span) as file:
        begun: list[bytes] = []  # parts of a line whose end is not read yet
        try:
            while raw := file.read(2**20):
                first, *lines = raw.split(b"\n")
                begun.append(first)
                if lines:
                    whole = [b"".join(begun), *lines[:-1]]
                    begun = lines[-1:]
                    yield whole
        except compressed.DAMAGED as error:
            raise UserError(f"{span.name} is damaged or cut short: {error}.") from None
        if last := b"".join(begun):
            yield [last]


def parquet(file: Any) -> Any:
    """
    Raises:
        UserError: pyarrow is not installed, or the file is not Parquet.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError("pyarrow is not installed: pip install 'sharedllm[ray]' reads Parquet.") from None
    try:
        return ParquetFile(file)
    except ArrowException as error:
        raise UserError(f"it is not Parquet: {error}") from None
