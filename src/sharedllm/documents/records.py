"""JSON and JSON lines: chats by message, lists of objects by record, other JSON as it is; notebooks by cell."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..utils.errors import UserError
from ..utils.json_text import Repeated, parse_json
from ..utils.text_files import pieces_of, read_text, text_pieces
from .chats import conversation, conversations, parts
from .encoding import legacy_encoding
from .extract import Extract, Kind, Part, grouped

# Most characters of a record, or of a value of other JSON, that is written in one line. Pieces end with lines.
SHORT = 300


def extract_json(path: Path) -> Extract:
    """
    Raises:
        UserError: it is empty, of no known encoding, or not JSON, or a key is there twice.
    """
    encoding = legacy_encoding(path)
    text = "".join(text_pieces(str(path), encoding))
    if _is_lines(text):
        return Extract(_lines(path, encoding), read_as=", ".join(filter(None, (encoding, "JSON lines"))))
    value = parsed(text, str(path))
    chats = conversations(value)
    if chats:
        return Extract(parts(chats), chats[0][0] if len(chats) == 1 else "", read_as=encoding)
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        records = grouped("record", ((i, record(entry)) for i, entry in enumerate(value, 1)))
        return Extract(records, read_as=encoding)
    if text.count("\n") < len(text) // 2000:
        # Written for programs, in few lines: written again for readers. Its lines are not the file's.
        again = _lines_of(value, str(path))
        return Extract([Part(piece) for piece in pieces_of(again)], read_as=encoding)
    return Extract([Part(piece) for piece in pieces_of(text)], unit="line", read_as=encoding)


def _is_lines(text: str) -> bool:
    """Whether a text is JSON lines: several documents, of which the first two are lines."""
    lines = [line for line in itertools.islice(text.split("\n"), 1000) if line.strip()]
    try:
        for line in (lines[0], lines[1]):
            json.loads(line)
    except (IndexError, ValueError, RecursionError):
        return False
    return True


def extract_lines(path: Path) -> Extract:
    """A record is the line with its number.

    Raises:
        UserError: it is empty, of no known encoding, or a line is not JSON or has a key twice.
    """
    encoding = legacy_encoding(path)
    return Extract(_lines(path, encoding), read_as=encoding)


def _lines(path: Path, encoding: str) -> Iterator[Part]:
    def texts() -> Iterator[tuple[int, str]]:
        for number, line in enumerate(_physical(text_pieces(str(path), encoding)), 1):
            if line.strip():
                value = parsed(line, f"{path}:{number}")
                chat = conversation(value)
                yield number, "".join(part.text for part in parts([chat])) if chat else record(value)

    yield from grouped("record", texts())


def _physical(pieces: Iterator[str]) -> Iterator[str]:
    """Lines that end with a line feed only; a text may hold other separators."""
    held = ""
    for piece in pieces:
        *lines, held = (held + piece).split("\n")
        yield from lines
    if held:
        yield held


def extract_notebook(path: Path) -> Extract:
    """The sources of a notebook's cells and the text that they printed.

    Raises:
        UserError: it is not a notebook.
    """
    value = parsed(read_text(str(path)), str(path))
    cells = value.get("cells") if isinstance(value, Mapping) else None
    if not isinstance(cells, list):
        raise UserError(f"{path} is not a notebook of format 4: it has no cells; open it in Jupyter and save it again.")
    return Extract([part for i, cell in enumerate(cells, 1) if isinstance(cell, Mapping) for part in _cell(i, cell)])


def _cell(number: int, cell: Mapping) -> Iterator[Part]:
    outputs = cell.get("outputs") if isinstance(cell.get("outputs"), list) else []
    texts = [_joined(cell.get("source"))]
    for output in outputs or []:
        if isinstance(output, Mapping):
            data = output.get("data")
            texts.append(_joined(output.get("text") or (data.get("text/plain") if isinstance(data, Mapping) else None)))
    text = "\n".join(text.rstrip("\n") for text in texts if text.strip())
    if text:
        yield Part(text + "\n\n", f"cell {number}")


def _joined(value: Any) -> str:
    lines = value if isinstance(value, list) else [value]
    return "".join(line for line in lines if isinstance(line, str))


def parsed(text: str, place: str) -> Any:
    try:
        return parse_json(text)
    except RecursionError:
        raise _nested(place) from None
    except Repeated as error:
        raise UserError(f"{place}: {error}: rename one, or name the file .txt to read it as text.") from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            raise UserError(
                f"{place} holds more than one JSON document: {error}; put each into a line and name it .jsonl, or name it "
                ".txt to read it as text."
            ) from None
        raise UserError(f"{place} is not JSON: {error}; fix it, or name it .txt to read it as text.") from None


def _nested(place: str) -> UserError:
    return UserError(f"{place} is nested too deeply for JSON: name it .txt to read it as text.")


def _lines_of(value: Any, place: str) -> str:
    """JSON with one value in a line, and what is short together in one, so that a record's values stay together."""

    def lines(value: Any, indent: str) -> Iterator[str]:
        flat = json.dumps(value, ensure_ascii=False)
        if not isinstance(value, dict | list) or len(flat) <= SHORT:
            yield flat
            return
        if isinstance(value, dict):
            entries = [(f"{json.dumps(name, ensure_ascii=False)}: ", entry) for name, entry in value.items()]
        else:
            entries = [("", entry) for entry in value]
        opens, closes = "{}" if isinstance(value, dict) else "[]"
        yield opens
        for number, (name, entry) in enumerate(entries, 1):
            first, *rest = lines(entry, indent + " ")
            *rest, last = [f"{indent} {name}{first}", *rest]
            yield from rest
            yield last + ("," if number < len(entries) else "")
        yield indent + closes

    try:
        return "\n".join(lines(value, "")) + "\n"
    except RecursionError:
        raise _nested(place) from None


def record(value: Any) -> str:
    """A record in lines "field: value", nested fields with dots; a short one in a single line, as a row of a table. Empty
    values are left out."""
    fields = [f"{name}: {text}" if name else text for name, text in _fields(value, "")]
    line = "; ".join(fields) + "\n"
    if len(line) <= SHORT and line.count("\n") == 1:
        return line if fields else ""
    return "".join(field + "\n" for field in fields) + ("\n" if len(fields) > 1 else "")


def _fields(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Fields of a value of any depth, without recursion."""
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{key}" if name else str(key), entry) for key, entry in reversed(list(value.items()))]
        elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
            waiting += [(f"{name}.{i}" if name else str(i), entry) for i, entry in reversed(list(enumerate(value, 1)))]
        elif isinstance(value, list):
            if value:
                yield name, ", ".join(str(entry) for entry in value)
        elif value is not None and str(value).strip():
            yield name, {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


JSON = Kind("JSON", (".json", ".geojson"), extract_json)
JSONL = Kind("JSONL", (".jsonl", ".ndjson"), extract_lines)
NOTEBOOK = Kind("notebook", (".ipynb",), extract_notebook)
