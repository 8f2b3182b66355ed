"""The documents of a shard, opened one by one: files of every kind of `documents`, and records of JSON lines and Parquet."""

import codecs
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..documents import open_document
from ..documents.chats import conversation, parts
from ..documents.opening import hash_of
from ..documents.places import Origin
from ..documents.records import parsed, record
from ..utils.errors import UserError
from ..utils.text_files import pieces_of
from .objects import Place
from .records import Changed, Damaged, Records
from .sources import Shard, Span

# The field of a record that is its text, and those that may be its title. A record without it is written as "field: value".
TEXT, TITLES = "text", ("title", "name", "id")


@dataclass(frozen=True)
class Text:
    """A document's text, in pieces that can be tokenised one by one."""

    origin: Origin
    pieces: Callable[[], Iterator[str]]


def texts(shard: Shard, records: Records) -> Iterator[tuple[str, Callable[[], Text]]]:
    """Name of each document, and what opens it: that raises if it alone can't be read.

    Args:
        records: reads files of records, from where the last shard ended.

    Raises:
        UserError: a file of records is gone, or has changed.
    """
    for span in shard.spans:
        if span.kind == "file":
            yield span.name, lambda span=span: _file(span)
            continue
        opens, first, end = _line if span.kind == "lines" else _record, span.first, span.first + span.count
        while first < end:
            try:
                for number, content in records.of(replace(span, first=first, count=end - first)):
                    name = span.record(number)
                    yield name, lambda content=content, name=name, opens=opens: opens(content, name)
                break
            except Damaged as error:
                for number in range(error.first, min(error.end, end)):
                    if number >= span.first:
                        yield span.record(number), lambda error=error: _raise(error)
                first = error.end


def _raise(error: UserError) -> Text:
    raise error


def _file(span: Span) -> Text:
    if not span.source:
        try:
            document = open_document(span.path)
        except UserError:  # it may have become one that can't be opened
            _compare(span, hash_of(Path(span.path)))
            raise
        _compare(span, document.origin.sha256)
        return Text(document.origin, document.pieces)
    with tempfile.TemporaryDirectory() as folder:
        # Some kinds are told by their suffix.
        copy = Path(folder) / f"document{PurePosixPath(span.path).suffix}"
        Place(span.source).fetch(span.path, copy)
        try:
            document = open_document(str(copy))
            held = list(document.pieces())
        except UserError as error:
            raise UserError(str(error).replace(str(copy), span.name)) from None
    return Text(document.origin, lambda: iter(held))


def _compare(span: Span, sha256: str) -> None:
    """
    Raises:
        Changed: the shard is named by another content of the file, and must not be committed with this one.
    """
    if span.sha256 and sha256 != span.sha256:
        raise Changed(span)


def _line(line: bytes, name: str) -> Text:
    try:
        value = parsed(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"), name)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: byte {error.start} is 0x{line[error.start]:02x}.") from None
    return _record(value, name)


def _record(value: Any, name: str) -> Text:
    title = ""
    if isinstance(value, Mapping):
        title = next((str(value[field]) for field in TITLES if isinstance(value.get(field), str | int)), "")
    if isinstance(value, Mapping) and isinstance(value.get(TEXT), str):
        text = value[TEXT]
    elif isinstance(value, str):
        text = value
    else:
        chat = conversation(value)
        text = (
            "".join(part.text for part in parts([chat])) if chat else record(json.loads(json.dumps(value, default=str)))
        )
    # JSON can escape half of a surrogate pair.
    text = text.encode("utf-8", "replace").decode()
    if not text.strip():
        raise UserError(f"{name} is empty: there is nothing to read.")
    origin = Origin(hashlib.sha256(text.encode()).hexdigest(), title.encode("utf-8", "replace").decode(), "line")
    return Text(origin, lambda: iter(pieces_of(text)))
